"""Every error of keys, signers and trust policies. No text of one of them holds a secret.

NexusError
|-- InputError
|   |-- KeyNotFound  KeyExists  KeyFileRefused  KeyInvalid
|   |-- PassphraseMissing  PassphraseWrong
|   `-- TrustInvalid
|-- SignerFailed                         an external signer did not do its work
`-- IdentityRefused                      what a trust policy says to an act that it does not believe
    |-- SignatureInvalid  SignatureFromFuture
    |-- KeyUnknown  KeyOfOtherActor  KeyNotYetValid  KeyExpired  KeyRetired
    `-- ActorNotTrusted  AssuranceTooLow  SelfApproval
"""

from collections.abc import Sequence

from nexus_control.errors import IdentityRefused, InputError, NexusError

__all__ = [
    "ActorNotTrusted",
    "AssuranceTooLow",
    "KeyExists",
    "KeyExpired",
    "KeyFileRefused",
    "KeyInvalid",
    "KeyNotFound",
    "KeyNotYetValid",
    "KeyOfOtherActor",
    "KeyRetired",
    "KeyUnknown",
    "PassphraseMissing",
    "PassphraseWrong",
    "SelfApproval",
    "SignatureFromFuture",
    "SignatureInvalid",
    "SignerFailed",
    "TrustInvalid",
]


class KeyNotFound(InputError):
    """There is no key of this name, file or environment variable."""

    code = "KEY_NOT_FOUND"


class KeyExists(InputError):
    """A key of this name exists; keys are never replaced."""

    code = "KEY_EXISTS"


class KeyFileRefused(InputError):
    """A private key lies where others could read or replace it, or is no regular file."""

    code = "KEY_FILE_REFUSED"


class KeyInvalid(InputError):
    """What should be a key is none, or its private and public parts do not belong together."""

    code = "KEY_INVALID"


class PassphraseMissing(InputError):
    """The key is protected, and nobody gave its passphrase."""

    code = "PASSPHRASE_MISSING"


class PassphraseWrong(InputError):
    """The passphrase does not open the key."""

    code = "PASSPHRASE_WRONG"


class TrustInvalid(InputError):
    """A trust policy was not understood completely; `problems` has each mistake with its place."""

    code = "TRUST_INVALID"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class SignerFailed(NexusError):
    """An external signer could not be run, took too long, or gave no signature of its key."""

    code = "SIGNER_FAILED"


class SignatureInvalid(IdentityRefused):
    """The signature is not that of the key that it names."""

    code = "SIGNATURE_INVALID"


class SignatureFromFuture(IdentityRefused):
    """The statement says that it was signed later than now."""

    code = "SIGNATURE_FROM_FUTURE"


class KeyUnknown(IdentityRefused):
    """The trust policy has no key of this id."""

    code = "KEY_UNKNOWN"


class KeyOfOtherActor(IdentityRefused):
    """The key belongs to somebody else."""

    code = "KEY_OF_OTHER_ACTOR"


class KeyNotYetValid(IdentityRefused):
    """The key was not valid yet."""

    code = "KEY_NOT_YET_VALID"


class KeyExpired(IdentityRefused):
    """The key had expired."""

    code = "KEY_EXPIRED"


class KeyRetired(IdentityRefused):
    """The key had been retired."""

    code = "KEY_RETIRED"


class ActorNotTrusted(IdentityRefused):
    """The trust policy does not let this actor do this."""

    code = "ACTOR_NOT_TRUSTED"


class AssuranceTooLow(IdentityRefused):
    """The trust policy wants the actor to be established more strongly."""

    code = "ASSURANCE_TOO_LOW"


class SelfApproval(IdentityRefused):
    """The trust policy, or the server, does not let actors approve what they requested themselves."""

    code = "SELF_APPROVAL"
