import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, DirectChatTransport, ToolLoopAgent, type ChatTransport, type UIMessage } from 'ai';
import { ensure, isSidecarError } from 'mlx-sidecar';

/** A message here: text and images, no tools. */
export type ChatMessage = UIMessage<unknown, never, Record<string, never>>;

/** Where chats of the AI SDK go: the sidecar's OpenAI API, asked for anew at each message (a restart moves it). */
export class SidecarTransport implements ChatTransport<ChatMessage> {
  constructor(private readonly model: () => string) {}

  async sendMessages(options: Parameters<ChatTransport<ChatMessage>['sendMessages']>[0]) {
    const { url, token } = await ensure();
    const provider = createOpenAICompatible({
      name: 'mlx-sidecar',
      baseURL: `${url}/v1`,
      apiKey: token ?? undefined,
    });
    const agent = new ToolLoopAgent({ model: provider(this.model()), maxRetries: 0 });
    // What can't be shown again to the model (a broken-off answer without text) is left out.
    const messages = options.messages.filter((m) => m.role === 'user' || textOf(m) !== '');
    return new DirectChatTransport({ agent, onError: explain }).sendMessages({ ...options, messages });
  }

  async reconnectToStream() {
    return null;
  }
}

/** The text of a message. */
export function textOf(message: Pick<UIMessage, 'parts'>): string {
  return message.parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
}

/** An error in words for people. */
export function explain(error: unknown): string {
  if (APICallError.isInstance(error)) {
    try {
      const message = JSON.parse(error.responseBody ?? '').error?.message;
      if (typeof message === 'string') return message;
    } catch {
      // not the sidecar's envelope
    }
    return error.statusCode ? error.message : BROKEN;
  }
  if (isSidecarError(error) && !(error instanceof Error)) return error.message;
  // What fetch and its reader throw when the other side is gone; the words differ between webviews.
  if (error instanceof TypeError) return BROKEN;
  const message = error instanceof Error ? error.message : String(error);
  // WebKitGTK ends the stream of a connection that broke as if it were whole; the SDK notices what is missing.
  return message.includes('ended without a finish reason') ? BROKEN : message;
}

const BROKEN = 'The answer broke off: the sidecar went away. It is started again by itself; then try again.';
