// promptfoo, by its command line: one evaluation of a provider `openai:chat`, with and without a response format.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BOOKING, KEY, LONG, MAX_TOKENS, MODEL, PROMPT, report, URL } from "./checks.mjs";

function evaluate({ prompt = PROMPT, key = KEY, model = MODEL, ...config } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "promptfoo-"));
  const provider = {
    id: `openai:chat:${model}`,
    config: { apiBaseUrl: URL, apiKey: key, max_tokens: MAX_TOKENS, temperature: 0, ...config },
  };
  writeFileSync(
    join(folder, "promptfooconfig.json"),
    JSON.stringify({ prompts: [prompt], providers: [provider] }),
  );
  const command = ["eval", "-c", "promptfooconfig.json", "-o", "out.json", "--no-cache", "--no-write", "--no-table"];
  const program = join(import.meta.dirname, "node_modules/promptfoo/dist/src/entrypoint.js");
  const env = { ...process.env, PROMPTFOO_CONFIG_DIR: folder };
  try {
    execFileSync(process.execPath, [program, ...command], { cwd: folder, env, stdio: "pipe" });
  } catch (error) {
    if (error.status !== 100) throw new Error(String(error.stdout) + String(error.stderr)); // 100: a test failed
  }
  const [result] = JSON.parse(readFileSync(join(folder, "out.json"))).results.results;
  if (!result.success) return { error: result.error };
  return result.response;
}

const status = (response) => Number(/\b(4\d\d)\b/.exec(response.error)?.[1]);

await report({
  chat: () => evaluate().output,
  tool: () => {
    const tools = [{ type: "function", function: { name: "book", parameters: BOOKING } }];
    const { output } = evaluate({ tools, tool_choice: "required", max_tokens: 100 });
    const call = [output].flat()[0].function;
    return { name: call.name, arguments: JSON.parse(call.arguments) };
  },
  structured: () => {
    const response_format = { type: "json_schema", json_schema: { name: "booking", schema: BOOKING } };
    const { output } = evaluate({ response_format, max_tokens: 100 });
    return typeof output === "string" ? JSON.parse(output) : output;
  },
  errors: () => [
    status(evaluate({ key: "wrong" })),
    status(evaluate({ model: "nobody" })),
    status(evaluate({ prompt: LONG })),
  ],
});
