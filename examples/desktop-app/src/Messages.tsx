import { useEffect, useRef } from 'react';
import type { ChatMessage } from './transport';

interface Props {
  messages: ChatMessage[];
  busy: boolean;
  waiting: boolean;
  error: string;
  canRetry: boolean;
  onRetry: () => void;
}

/** The conversation. */
export function Messages({ messages, busy, waiting, error, canRetry, onRetry }: Props) {
  const end = useRef<HTMLDivElement>(null);
  useEffect(() => end.current?.scrollIntoView({ block: 'end' }), [messages, error]);

  return (
    <main role="log" aria-label="Conversation" aria-busy={busy} tabIndex={0}>
      {messages.length === 0 && !error && (
        <div className="empty">
          <p>Everything you write and show here stays on this machine.</p>
          <p className="quiet">Ask a question, or drop, paste or pick a picture.</p>
        </div>
      )}
      {messages.map((message) => (
        <article key={message.id} className={message.role} aria-label={message.role === 'user' ? 'You' : 'Answer'}>
          {message.parts.map((part, i) => {
            if (part.type === 'text') return <p key={i}>{part.text}</p>;
            if (part.type === 'file') return <img key={i} src={part.url} alt={part.filename || 'a picture you sent'} />;
            return null;
          })}
        </article>
      ))}
      {waiting && (
        <p className="quiet thinking" role="status">
          Thinking…
        </p>
      )}
      {error && (
        <div role="alert" className="problem" data-testid="broken">
          <span>{error}</span>
          <button type="button" onClick={onRetry} disabled={!canRetry}>
            Try again
          </button>
        </div>
      )}
      <div ref={end} />
    </main>
  );
}
