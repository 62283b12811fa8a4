import type { UIMessage } from 'ai';

type Part = UIMessage['parts'][number];

export function Message({ message, streaming }: { message: UIMessage; streaming: boolean }) {
  const mine = message.role === 'user';
  return (
    <article className={mine ? 'message mine' : 'message'} aria-label={mine ? 'You' : 'Answer'}>
      {message.parts.map((part, i) => <PartView key={i} part={part} streaming={streaming} />)}
      {streaming && <span className="cursor" aria-hidden="true" />}
    </article>
  );
}

function PartView({ part, streaming }: { part: Part; streaming: boolean }) {
  if (part.type === 'text') return <Words text={part.text} />;
  if (part.type === 'reasoning') {
    return part.text ? (
      <details className="aside" open={streaming && part.state !== 'done'}>
        <summary>Reasoning</summary>
        <p className="words">{part.text}</p>
      </details>
    ) : null;
  }
  if (part.type === 'file') {
    if (part.mediaType.startsWith('image/')) return <img className="picture" src={part.url} alt={part.filename ? `Picture: ${part.filename}` : 'Picture sent along'} />;
    return <p className="quiet">File: {part.filename ?? part.mediaType}</p>;
  }
  if (part.type === 'dynamic-tool' || part.type.startsWith('tool-')) return <ToolCall part={part as unknown as Tool} />;
  return null;
}

interface Tool { type: string; toolName?: string; state: string; input?: unknown; output?: unknown; errorText?: string }

function ToolCall({ part }: { part: Tool }) {
  const name = (part.toolName ?? part.type.replace(/^tool-/, '')).replaceAll('_', ' ');
  const ended = part.state === 'output-available' ? 'done' : part.state === 'output-error' ? 'failed' : 'running';
  return (
    <details className="aside tool">
      <summary>Tool: {name} <span className={`badge ${ended}`}>{ended}</span></summary>
      <dl>
        <dt>Asked</dt><dd><code>{shown(part.input)}</code></dd>
        {part.output !== undefined && <><dt>Result</dt><dd><code>{shown(part.output)}</code></dd></>}
        {part.errorText && <><dt>Error</dt><dd>{part.errorText}</dd></>}
      </dl>
    </details>
  );
}

const shown = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value));

/** Text as written, code fences set apart. */
function Words({ text }: { text: string }) {
  return text.split('```').map((piece, i) => i % 2 === 1
    ? <pre key={i} tabIndex={0} role="region" aria-label="Code"><code>{piece.replace(/^[\w+-]*\n/, '')}</code></pre>
    : piece.trim() && <p key={i} className="words">{piece.trim()}</p>);
}
