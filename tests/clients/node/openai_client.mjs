// The official OpenAI client.

import OpenAI from "openai";
import { BOOKING, KEY, LONG, MANY_TOKENS, MAX_TOKENS, MODEL, PROMPT, report, statusOf, STORY, URL } from "./checks.mjs";

const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0 });

const ask = ({ using = client, content = PROMPT, ...options } = {}) =>
  using.chat.completions.create({
    model: MODEL,
    messages: [{ role: "user", content }],
    max_tokens: MAX_TOKENS,
    temperature: 0,
    ...options,
  });

await report({
  models: async () => (await Array.fromAsync(client.models.list())).map((model) => model.id),
  chat: async () => (await ask()).choices[0].message.content,
  stream: async () => {
    const parts = [];
    for await (const chunk of await ask({ stream: true })) parts.push(chunk.choices[0]?.delta?.content);
    return parts.filter(Boolean);
  },
  tool: async () => {
    const tools = [{ type: "function", function: { name: "book", parameters: BOOKING } }];
    const tool_choice = { type: "function", function: { name: "book" } };
    const call = (await ask({ tools, tool_choice, max_tokens: 100 })).choices[0].message.tool_calls[0].function;
    return { name: call.name, arguments: JSON.parse(call.arguments) };
  },
  structured: async () => {
    const response_format = { type: "json_schema", json_schema: { name: "booking", schema: BOOKING } };
    return JSON.parse((await ask({ response_format, max_tokens: 100 })).choices[0].message.content);
  },
  errors: async () => [
    await statusOf(() => ask({ using: client.withOptions({ apiKey: "wrong" }) })),
    await statusOf(() => ask({ model: "nobody" })),
    await statusOf(() => ask({ content: LONG })),
  ],
  abort: async () => {
    const stream = await ask({ content: STORY, stream: true, max_tokens: MANY_TOKENS });
    for await (const chunk of stream) {
      stream.controller.abort();
      return chunk.model;
    }
  },
});
