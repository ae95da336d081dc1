// The walk of every client: list the tools, request, approve twice (a person confirms each), execute, export. Prints one JSON object.

/** `client` is a connected client of either SDK; `asked` are the questions that it has answered. */
export async function walk(client, adapter, asked) {
  const { tools } = await client.listTools();
  const call = async (tool, args) => {
    const result = await client.callTool({ name: `nexus-attest.${tool}`, arguments: args });
    if (result.isError) throw new Error(result.content[0].text);
    return result.structuredContent;
  };
  const person = (id) => ({ type: "human", id });
  const plan = JSON.stringify([{ tool: "t", method: "m" }]);
  const { request_id } = await call("request", { goal: "walk", actor: person("alice"), mode: "apply", plan, min_approvals: 2 });
  const first = await call("approve", { request_id, actor: person("bob") });
  const second = await call("approve", { request_id, actor: person("carol") });
  const run = await call("execute", { request_id, adapter_id: adapter, actor: person("alice") });
  const { package: exported } = await call("export_audit_package", { decision_id: request_id });
  const refused = await client.callTool({ name: "nexus-attest.execute", arguments: { request_id, adapter_id: adapter, actor: person("alice") } });
  const code = refused._meta?.["io.github.nexus-attest/error"]?.code;
  return { tools: tools.map((tool) => tool.name), approved: [first.is_approved, second.is_approved], mode: run.mode, again: code, asked, package: exported };
}

/** `{"command", "args", "env"}` or `{"url"}`, and `adapter` and `mode`: what the test wants. */
export const given = JSON.parse(process.argv[2]);

export const yes = { action: "accept", content: { approve: true } };
