import type { UIMessage } from 'ai';
import { useEffect, useState } from 'react';
import { blob, post, words, type Source } from './api';
import { t } from './i18n';
import { Markdown } from './Markdown';

type Part = UIMessage['parts'][number];

interface Props {
  message: UIMessage;
  streaming: boolean;
  siblings: string[];
  busy: boolean;
  edit: (text: string) => void;
  again: () => void;
  show: (id: string) => void;
  say: (text: string) => void;
}

export function Message({ message, streaming, siblings, busy, edit, again, show, say }: Props) {
  const [editing, setEditing] = useState<string>();
  const mine = message.role === 'user';
  const text = message.parts.map((p) => (p.type === 'text' ? p.text : '')).join('\n\n').trim();
  const at = siblings.indexOf(message.id);
  const state = (message.metadata as { state?: string } | undefined)?.state;
  if (editing !== undefined) {
    return (
      <form className="message mine editing" onSubmit={(e) => { e.preventDefault(); setEditing(undefined); edit(editing.trim()); }}>
        <textarea aria-label={t('Edited question')} autoFocus rows={3} value={editing} onChange={(e) => setEditing(e.target.value)}
          onKeyDown={(e) => { if (e.key === 'Escape') { e.stopPropagation(); setEditing(undefined); } }} />
        <div className="row">
          <button type="submit" className="primary" disabled={!editing.trim()}>{t('Ask')}</button>
          <button type="button" onClick={() => setEditing(undefined)}>{t('Cancel')}</button>
        </div>
      </form>
    );
  }
  return (
    <div className={mine ? 'turn mine' : 'turn'}>
      <article className={mine ? 'message mine' : 'message'} aria-label={mine ? t('You') : t('Answer')}>
        {message.parts.map((part, i) => <PartView key={i} part={part} streaming={streaming} mine={mine} say={say} />)}
        {streaming && <span className="cursor" aria-hidden="true" />}
        {state === 'interrupted' && <p className="quiet">{t('This answer was interrupted.')}</p>}
        {state === 'stopped' && <p className="quiet">{t('This answer was stopped.')}</p>}
      </article>
      {!streaming && (
        <div className="tools row">
          {siblings.length > 1 && (
            <span className="branches">
              <button type="button" className="icon" aria-label={t('Earlier version')} disabled={busy || at <= 0} onClick={() => show(siblings[at - 1]!)}><span aria-hidden="true">‹</span></button>
              <span className="quiet">{at + 1}/{siblings.length}</span>
              <button type="button" className="icon" aria-label={t('Later version')} disabled={busy || at >= siblings.length - 1} onClick={() => show(siblings[at + 1]!)}><span aria-hidden="true">›</span></button>
            </span>
          )}
          {mine && <button type="button" className="icon" disabled={busy} onClick={() => setEditing(text)}>{t('Edit')}</button>}
          {!mine && <button type="button" className="icon" onClick={() => void navigator.clipboard.writeText(text).then(() => say(t('Copied.')))}>{t('Copy')}</button>}
          {!mine && <button type="button" className="icon" disabled={busy} onClick={again}>{t('Answer again')}</button>}
        </div>
      )}
    </div>
  );
}

function PartView({ part, streaming, mine, say }: { part: Part; streaming: boolean; mine: boolean; say: (text: string) => void }) {
  if (part.type === 'text') return mine ? <p className="words">{part.text}</p> : <Markdown text={part.text} />;
  if (part.type === 'reasoning') {
    return part.text ? (
      <details className="aside" open={streaming && part.state !== 'done'}>
        <summary>{t('Reasoning')}</summary>
        <p className="words">{part.text}</p>
      </details>
    ) : null;
  }
  if (part.type === 'file') {
    if (/^image\/(png|jpeg|webp|gif|bmp)$/.test(part.mediaType)) return <Picture url={part.url} kind={part.mediaType} name={part.filename} />;
    return <FileLink url={part.url} kind={part.mediaType} name={part.filename ?? part.mediaType} pages={read(part)?.pages} say={say} />;
  }
  if (part.type === 'data-error') return <p className="error">{(part.data as { text: string }).text}</p>;
  if (part.type === 'data-sources') return <Sources found={part.data as Source[]} />;
  if (part.type === 'dynamic-tool' || part.type.startsWith('tool-')) return <ToolCall part={part as unknown as Tool} say={say} />;
  return null;
}

/** A picture of the chat: its bytes come with the key, which an address could not carry. */
function Picture({ url, kind, name }: { url: string; kind: string; name?: string }) {
  const [shown, setShown] = useState(url.startsWith('data:') ? url : '');
  useEffect(() => {
    if (url.startsWith('data:')) return;
    let made = '';
    let gone = false;
    void blob(url, kind).then((found) => { if (gone) URL.revokeObjectURL(found); else setShown(made = found); }, () => undefined);
    return () => { gone = true; if (made) URL.revokeObjectURL(made); };
  }, [url, kind]);
  return shown ? <img className="picture" src={shown} alt={name ? t('Picture: {name}', { name }) : t('Picture sent along')} /> : null;
}

/** What the service noted when it read a document. */
function read(part: Part): { pages: number } | undefined {
  return (part as { providerMetadata?: Record<string, unknown> }).providerMetadata?.['mlx-host'] as { pages: number } | undefined;
}

/** A document of the chat, to be saved: its bytes come with the key. */
function FileLink({ url, kind, name, pages, say }: { url: string; kind: string; name: string; pages?: number; say: (text: string) => void }) {
  const save = () => {
    blob(url, kind).then((made) => {
      const link = document.createElement('a');
      link.href = made;
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(made), 10_000);
    }, (e: unknown) => say(words(e)));
  };
  return (
    <p className="document">
      <button type="button" title={t('Save {name}', { name })} onClick={save}>{name}</button>
      {pages !== undefined && <span className="quiet">{pages === 1 ? t('1 page') : t('{n} pages', { n: pages })}</span>}
    </p>
  );
}

function Sources({ found }: { found: Source[] }) {
  if (found.length === 0) return <p className="quiet">{t('Nothing about this was found in your documents.')}</p>;
  return (
    <details className="aside">
      <summary>{t('From your documents ({n})', { n: found.length })}</summary>
      <ol className="hits">
        {found.map((s, i) => <li key={i}><strong>{s.document}</strong>, {t('page {n}', { n: s.page })}<p>{s.text.length > 240 ? `${s.text.slice(0, 240)}…` : s.text}</p></li>)}
      </ol>
    </details>
  );
}

interface Tool { type: string; toolName?: string; state: string; input?: unknown; output?: unknown; errorText?: string; approval?: { id: string } }

function ToolCall({ part, say }: { part: Tool; say: (text: string) => void }) {
  const [answered, setAnswered] = useState(false);
  const name = (part.toolName ?? part.type.replace(/^tool-/, '')).replaceAll('_', ' ');
  const waits = part.state === 'approval-requested' && part.approval && !answered;
  const ended = part.state === 'output-available' ? 'done' : part.state === 'output-error' ? 'failed' : 'running';
  const answer = (approved: boolean, always: boolean) => {
    setAnswered(true);
    post(`chat/approvals/${part.approval?.id}`, { approved, always }).catch((e: unknown) => { setAnswered(false); say(words(e)); });
  };
  return (
    <details className="aside tool" open={waits ? true : undefined}>
      <summary>{t('Tool: {name}', { name })} <span className={`badge ${ended}`}>{waits ? t('waits for you') : t(ended)}</span></summary>
      <dl>
        <dt>{t('Asked')}</dt><dd><code>{shown(part.input)}</code></dd>
        {part.output !== undefined && <><dt>{t('Result')}</dt><dd><code>{shown(part.output)}</code></dd></>}
        {part.errorText && <><dt>{t('Error')}</dt><dd>{part.errorText}</dd></>}
      </dl>
      {waits && (
        <div className="row" role="group" aria-label={t('May this tool run?')}>
          <button type="button" className="primary" onClick={() => answer(true, false)}>{t('Allow once')}</button>
          <button type="button" onClick={() => answer(true, true)}>{t('Always allow')}</button>
          <button type="button" onClick={() => answer(false, false)}>{t('Deny')}</button>
        </div>
      )}
    </details>
  );
}

const shown = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value));
