// Drives /chat/agent-stream with the real AI SDK: the Chat behind useChat and its default transport.
import { Chat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';

const [url, key, question, image] = process.argv.slice(2);
const headers = { authorization: `Bearer ${key}` };
const states = new Set();
const chat = new Chat({
  id: `node-${process.pid}`,
  transport: new DefaultChatTransport({ api: `${url}/chat/agent-stream`, headers }),
  onError: (e) => { console.error('onError', e.message); },
});
chat['~registerStatusCallback']?.(() => states.add(chat.status));
const files = image ? [{ type: 'file', mediaType: 'image/png', url: image }] : undefined;
await chat.sendMessage({ text: question, files });
console.log(JSON.stringify({ status: chat.status, states: [...states], error: chat.error?.message, messages: chat.messages }));
const stored = await (await fetch(`${url}/chat/sessions/node-${process.pid}`, { headers })).json();
stored.messages ??= [];
// Files are kept once, by their content: where the client has the bytes, the service has a name.
const plain = (messages) => JSON.stringify(messages.map((m) => [m.id, m.role, m.parts.map((p) => (p.type === 'file' ? [p.type, p.mediaType] : Object.entries(p).filter(([, v]) => v !== undefined).sort()))]));
console.log(JSON.stringify({ same: plain(stored.messages) === plain(chat.messages) }));
