// @modelcontextprotocol/sdk 1.x: the handshake era, and the strictest reader of results.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { given, walk, yes } from "./walk.mjs";

const asked = [];
const client = new Client({ name: "typescript1", version: "1" }, { capabilities: { elicitation: {} } });
client.setRequestHandler(ElicitRequestSchema, async (request) => (asked.push(request.params.message), yes));
const { url, command, args, env } = given;
await client.connect(url ? new StreamableHTTPClientTransport(new URL(url)) : new StdioClientTransport({ command, args, env }));
console.log(JSON.stringify(await walk(client, given.adapter, asked)));
await client.close();
