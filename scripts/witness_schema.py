"""Print the JSON Schema of witness files: schemas/nexus-attest.witness.v1.json is this output."""

import json

from nexus_attest.attestation.witness_file import witness_file_schema

if __name__ == "__main__":
    print(json.dumps(witness_file_schema(), indent=2))
