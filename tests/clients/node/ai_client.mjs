// Vercel's AI SDK, with its provider for OpenAI-compatible servers.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText, tool } from "ai";
import { z } from "zod";
import { KEY, LONG, MANY_TOKENS, MAX_TOKENS, MODEL, PROMPT, report, statusOf, STORY, URL } from "./checks.mjs";

const booking = z.object({ city: z.enum(["Oslo", "Rome"]), nights: z.union([z.literal(1), z.literal(2)]) });

const settings = ({ key = KEY, model = MODEL, prompt = PROMPT, ...options } = {}) => ({
  model: createOpenAICompatible({ name: "luthier", baseURL: URL, apiKey: key, supportsStructuredOutputs: true })(model),
  prompt,
  maxOutputTokens: MAX_TOKENS,
  temperature: 0,
  maxRetries: 0,
  ...options,
});

await report({
  chat: async () => (await generateText(settings())).text,
  stream: async () => Array.fromAsync(streamText(settings()).textStream),
  tool: async () => {
    const tools = { book: tool({ description: "Books a room.", inputSchema: booking }) };
    const toolChoice = { type: "tool", toolName: "book" };
    const [call] = (await generateText(settings({ tools, toolChoice, maxOutputTokens: 100 }))).toolCalls;
    return { name: call.toolName, arguments: call.input };
  },
  structured: async () =>
    (await generateText(settings({ output: Output.object({ schema: booking }), maxOutputTokens: 100 }))).output,
  errors: async () => [
    await statusOf(() => generateText(settings({ key: "wrong" }))),
    await statusOf(() => generateText(settings({ model: "nobody" }))),
    await statusOf(() => generateText(settings({ prompt: LONG }))),
  ],
  abort: async () => {
    const controller = new AbortController();
    const streamed = streamText(
      settings({ prompt: STORY, maxOutputTokens: MANY_TOKENS, abortSignal: controller.signal }),
    );
    for await (const part of streamed.textStream) {
      controller.abort();
      return part;
    }
  },
});
