// @modelcontextprotocol/client 2.x: the era that `mode` names, by its own negotiation.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { given, walk, yes } from "./walk.mjs";

const asked = [];
const options = { capabilities: { elicitation: { form: {} } }, versionNegotiation: { mode: given.mode } };
const client = new Client({ name: "typescript2", version: "1" }, options);
client.setRequestHandler("elicitation/create", async (request) => (asked.push(request.params.message), yes));
const { url, command, args, env } = given;
await client.connect(url ? new StreamableHTTPClientTransport(new URL(url)) : new StdioClientTransport({ command, args, env }));
console.log(JSON.stringify(await walk(client, given.adapter, asked)));
await client.close();
