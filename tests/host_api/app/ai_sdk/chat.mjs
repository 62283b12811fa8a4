// Drives /chat/agent-stream with the real AI SDK: the Chat behind useChat and its default transport.
import { Chat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';

const [url, question, image] = process.argv.slice(2);
const states = new Set();
const chat = new Chat({
  id: `node-${process.pid}`,
  transport: new DefaultChatTransport({ api: `${url}/chat/agent-stream` }),
  onError: (e) => { console.error('onError', e.message); },
});
chat['~registerStatusCallback']?.(() => states.add(chat.status));
const files = image ? [{ type: 'file', mediaType: 'image/png', url: image }] : undefined;
await chat.sendMessage({ text: question, files });
console.log(JSON.stringify({ status: chat.status, states: [...states], error: chat.error?.message, messages: chat.messages }));
const stored = await (await fetch(`${url}/chat/sessions/node-${process.pid}`)).json();
stored.messages ??= [];
console.log(JSON.stringify({ same: JSON.stringify(stored.messages.map((m) => m.id)) === JSON.stringify(chat.messages.map((m) => m.id)) }));
