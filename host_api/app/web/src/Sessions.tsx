import { useEffect, useRef, useState } from 'react';
import { get, words, type Session } from './api';
import { t } from './i18n';

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
  const [looked, setLooked] = useState('');
  const [found, setFound] = useState<Session[]>();
  useEffect(() => {
    if (!looked.trim()) return setFound(undefined);
    const due = setTimeout(() => { get<Session[]>(`chat/sessions?words=${encodeURIComponent(looked.trim())}`).then(setFound, (e: unknown) => say(words(e))); }, 200);
    return () => clearTimeout(due);
  }, [looked, say, sessions]);
  const first = useRef<HTMLButtonElement>(null);
  const tried = (work: Promise<void>, done: string) => work.then(() => { say(done); first.current?.focus(); }, (e: unknown) => say(words(e)));
  return (
    <>
      <button type="button" className="wide primary" ref={first} onClick={begin}>{t('New chat')}</button>
      <input type="search" className="wide" aria-label={t('Search the chats')} placeholder={t('Search the chats')} value={looked} maxLength={200} onChange={(e) => setLooked(e.target.value)} />
      {sessions.length === 0 && <p className="quiet">{t('Chats appear here.')}</p>}
      {found?.length === 0 && <p className="quiet">{t('No chat has these words.')}</p>}
      <ul className="sessions">
        {(found ?? sessions).map((s) => editing === s.id ? (
          <li key={s.id}>
            <form onSubmit={(e) => { e.preventDefault(); edit(undefined); void tried(rename(s.id, title), t('Chat renamed.')); }}>
              <input aria-label={t('New title')} autoFocus value={title} maxLength={200} onChange={(e) => setTitle(e.target.value)}
                onKeyDown={(e) => { if (e.key === 'Escape') edit(undefined); }} />
              <button type="submit" disabled={!title.trim()}>{t('Save')}</button>
            </form>
          </li>
        ) : (
          <li key={s.id} className={s.id === current ? 'current' : ''}>
            <button type="button" className="title" aria-current={s.id === current ? 'page' : undefined} title={s.title}
              onClick={() => open(s.id).catch((e: unknown) => say(words(e)))}>{s.title}{s.running && <span className="dot busy" role="img" aria-label={t('being answered')} />}</button>
            <button type="button" className="icon" aria-label={t('Rename {title}', { title: s.title })} title={t('Rename')}
              onClick={() => { edit(s.id); setTitle(s.title); }}><span aria-hidden="true">✎</span></button>
            <button type="button" className="icon" aria-label={t('Delete {title}', { title: s.title })} title={t('Delete')}
              onClick={() => { if (confirm(t('Delete “{title}”?', { title: s.title }))) void tried(remove(s.id), t('Chat deleted.')); }}><span aria-hidden="true">✕</span></button>
          </li>
        ))}
      </ul>
    </>
  );
}
