// What npm's `xrpl` finds in a dumped ledger: every hash, root and signature computed from the bytes, none read from the dump.
// Usage: node check_ledger.js <folder of the package> < dump.json

const { readFileSync } = require('node:fs')
const { createRequire } = require('node:module')

const from = createRequire(`${process.argv[2]}/package.json`)
const { hashes } = from('xrpl')
const { decode, encode, encodeForSigning } = from('ripple-binary-codec')
const { deriveAddress, verify } = from('ripple-keypairs')

const hex = (bytes) => Buffer.from(bytes).toString('hex').toUpperCase()
const without = (object, ...names) => Object.fromEntries(Object.entries(object).filter(([name]) => !names.includes(name)))

function manifest(base64) {
  const object = decode(hex(Buffer.from(base64, 'base64')))
  const message = hex(Buffer.from('MAN\0')) + encode(without(object, 'Signature', 'MasterSignature'))
  const good = verify(message, object.MasterSignature, object.PublicKey) && verify(message, object.Signature, object.SigningPubKey)
  return { good, master: object.PublicKey, signing: object.SigningPubKey }
}

function validation(blob) {
  const object = decode(blob)
  const message = hex(Buffer.from('VAL\0')) + encode(without(object, 'Signature'))
  const good = encode(object) === blob && verify(message, object.Signature, object.SigningPubKey)
  return { good, signing: object.SigningPubKey, hash: object.LedgerHash, index: object.LedgerSequence, full: object.Flags % 2 === 1 }
}

function transaction(blob) {
  const object = decode(blob)
  return {
    id: hashes.hashSignedTx(blob),
    good: encode(object) === blob && verify(encodeForSigning(object), object.TxnSignature, object.SigningPubKey),
    own_key: deriveAddress(object.SigningPubKey) === object.Account,
  }
}

const dump = JSON.parse(readFileSync(0, 'utf8'))
const trees = {
  transaction_hash: hashes.hashTxTree(dump.transactions.map((item) => ({ ...decode(item.tx_blob), metaData: decode(item.meta_blob) }))),
  account_hash: hashes.hashStateTree(dump.state),
}
const list = Buffer.from(dump.unl.blob, 'base64')
const publisher = manifest(dump.unl.manifest)
console.log(
  JSON.stringify({
    ...trees,
    ledger_hash: hashes.hashLedgerHeader({ ...dump.header, ...trees }),
    transactions: dump.transactions.map((item) => transaction(item.tx_blob)),
    publisher: { ...publisher, list: verify(hex(list), dump.unl.signature, publisher.signing) },
    validators: JSON.parse(list.toString()).validators.map((item) => manifest(item.manifest)),
    validations: dump.validations.map(validation),
  }),
)
