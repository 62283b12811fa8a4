// Drives the server with the real AI SDK; what came is printed as one JSON document.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embed, embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai';
import { z } from 'zod';

globalThis.AI_SDK_LOG_WARNINGS = false;
const [url, kind, picture] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none' });
const compatible = createOpenAICompatible({ name: 'local', baseURL: `${url}/v1`, supportsStructuredOutputs: true });
const providers = {
  responses: { chat: (id) => openai(id), vectors: (id) => openai.embedding(id) },
  chat: { chat: (id) => openai.chat(id), vectors: (id) => openai.embedding(id) },
  compatible: { chat: (id) => compatible(id), vectors: (id) => compatible.embeddingModel(id) },
};
const { chat, vectors } = providers[kind];
const model = chat('starter');
const common = { model, temperature: 0, maxOutputTokens: 80, maxRetries: 0 };
const capital = 'What is the capital of France?';
const city = z.object({ name: z.string().max(20), large: z.boolean() });
const out = {};

const text = await generateText({ ...common, prompt: capital });
out.text = [text.text, text.finishReason, text.usage.inputTokens > 0 && text.usage.outputTokens > 0];

const stream = streamText({ ...common, prompt: capital });
out.parts = [];
for await (const part of stream.textStream) out.parts.push(part);
out.ended = await stream.finishReason;

out.object = (await generateObject({ ...common, schema: city, prompt: 'Paris is a city.' })).object;
const partial = streamObject({ ...common, schema: city, prompt: 'Paris is a city.' });
out.partials = 0;
for await (const _ of partial.partialObjectStream) out.partials += 1;
out.streamed = await partial.object;

out.called = [];
const weather = tool({
  description: 'Tell the weather of a city.',
  inputSchema: z.object({ city: z.string().max(20) }),
  execute: async ({ city }) => { out.called.push(city); return 'Sunny.'; },
});
const tooled = await generateText({
  ...common, tools: { weather }, prompt: 'What is the weather in Paris?', stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? 'none' : 'required' }),
});
out.steps = tooled.steps.map((s) => s.finishReason);

const content = [{ type: 'text', text: 'What is this?' }, { type: 'image', image: picture }];
out.seen = (await generateText({ ...common, messages: [{ role: 'user', content }] })).text;

const one = await embed({ model: vectors('starter-embedding'), value: 'A cat sleeps.' });
const many = await embedMany({ model: vectors('starter-embedding'), values: ['A cat sleeps.', 'A dog barks.'] });
out.vectors = [one.embedding.length, many.embeddings.length, Math.abs(one.embedding[0] - many.embeddings[0][0]) < 1e-3];

out.refused = await generateText({ ...common, model: chat('not-here'), prompt: 'x' }).catch((e) => [e.statusCode, e.message]);
console.log(JSON.stringify(out));
