import { useRef, useState } from 'react';
import { words, type Session } from './api';

interface Props {
  sessions: Session[];
  current: string | undefined;
  open: (id: string) => Promise<void>;
  begin: () => void;
  rename: (id: string, title: string) => Promise<void>;
  remove: (id: string) => Promise<void>;
  say: (text: string) => void;
}

export function Sessions({ sessions, current, open, begin, rename, remove, say }: Props) {
  const [editing, edit] = useState<string>();
  const [title, setTitle] = useState('');
  const first = useRef<HTMLButtonElement>(null);
  const tried = (work: Promise<void>, done: string) => work.then(() => { say(done); first.current?.focus(); }, (e: unknown) => say(words(e)));
  return (
    <>
      <button type="button" className="wide primary" ref={first} onClick={begin}>New chat</button>
      {sessions.length === 0 && <p className="quiet">Chats appear here once they have an answer.</p>}
      <ul className="sessions">
        {sessions.map((s) => editing === s.id ? (
          <li key={s.id}>
            <form onSubmit={(e) => { e.preventDefault(); edit(undefined); void tried(rename(s.id, title), 'Chat renamed.'); }}>
              <input aria-label="New title" autoFocus value={title} maxLength={200} onChange={(e) => setTitle(e.target.value)}
                onKeyDown={(e) => { if (e.key === 'Escape') edit(undefined); }} />
              <button type="submit" disabled={!title.trim()}>Save</button>
            </form>
          </li>
        ) : (
          <li key={s.id} className={s.id === current ? 'current' : ''}>
            <button type="button" className="title" aria-current={s.id === current ? 'page' : undefined} title={s.title}
              onClick={() => open(s.id).catch((e: unknown) => say(words(e)))}>{s.title}</button>
            <button type="button" className="icon" aria-label={`Rename ${s.title}`} title="Rename"
              onClick={() => { edit(s.id); setTitle(s.title); }}><span aria-hidden="true">✎</span></button>
            <button type="button" className="icon" aria-label={`Delete ${s.title}`} title="Delete"
              onClick={() => { if (confirm(`Delete “${s.title}”?`)) void tried(remove(s.id), 'Chat deleted.'); }}><span aria-hidden="true">✕</span></button>
          </li>
        ))}
      </ul>
    </>
  );
}
