// npm's `xrpl` as a client: fill in, sign, submit, wait, and read the result back.
// Usage: node submit_with_xrpl_js.js <folder of the package> <WebSocket URL> <seed>

const { createRequire } = require('node:module')
const { Client, Wallet } = createRequire(`${process.argv[2]}/package.json`)('xrpl')

async function main() {
  const client = new Client(process.argv[3])
  await client.connect()
  try {
    const wallet = Wallet.fromSeed(process.argv[4])
    const memo = { Memo: { MemoType: '6E657875732E617474657374', MemoData: '68656C6C6F' } }
    const done = await client.submitAndWait({ TransactionType: 'AccountSet', Account: wallet.address, Memos: [memo] }, { wallet })
    const { hash, validated, meta, ledger_index: index } = done.result
    console.log(JSON.stringify({ hash, validated, index, result: meta.TransactionResult, balance: await client.getXrpBalance(wallet.address) }))
  } finally {
    await client.disconnect()
  }
}

main()
