import { useCallback, useEffect, useRef, useState } from 'react';
import { call, follow, get, post, words, type Hit, type Task } from './api';

const RUNNING = ['queued', 'running'];

function indexed(result: Record<string, unknown>): string {
  const pages = Number(result.pages);
  const pictures = Number(result.pictures);
  return `${pages} ${pages === 1 ? 'page' : 'pages'}${pictures ? `, ${String(result.described)} of ${pictures} pictures described` : ''}`;
}

export function Tasks({ say }: { say: (text: string) => void }) {
  const [tasks, setTasks] = useState<Task[]>([]);
  const [error, setError] = useState('');
  const [query, setQuery] = useState('');
  const [hits, setHits] = useState<Hit[]>();
  const followed = useRef(new Map<string, AbortController>());
  const file = useRef<HTMLInputElement>(null);
  const kind = useRef('index');

  const load = useCallback(async () => setTasks(await get<Task[]>('tasks')), []);
  const tried = useCallback(async (work: () => Promise<unknown>) => {
    setError('');
    try {
      await work();
    } catch (e) {
      setError(words(e));
    }
  }, []);
  useEffect(() => { void tried(load); }, [load, tried]);

  useEffect(() => {
    for (const task of tasks) {
      if (!RUNNING.includes(task.state) || followed.current.has(task.id)) continue;
      const gone = new AbortController();
      followed.current.set(task.id, gone);
      const seen = (now: Task) => {
        setTasks((all) => all.map((t) => (t.id === now.id ? now : t)));
        if (!RUNNING.includes(now.state)) say(`${now.name}: ${now.state}.`);
      };
      void follow(task.id, seen, gone.signal).catch(() => undefined).finally(() => {
        followed.current.delete(task.id);
        if (!gone.signal.aborted) setTimeout(() => void load().catch(() => undefined), 1000);
      });
    }
  }, [tasks, load, say]);
  useEffect(() => {
    const all = followed.current;
    return () => { for (const one of all.values()) one.abort(); };
  }, []);

  const upload = (given: File) => tried(async () => {
    const form = new FormData();
    form.append('file', given);
    await call('POST', `tasks/${kind.current}`, form);
    say(`${given.name} is queued.`);
    await load();
  });
  const pick = (what: string) => { kind.current = what; file.current?.click(); };

  return (
    <section aria-labelledby="tasks-title">
      <h2 id="tasks-title">Documents and tasks</h2>
      <div className="row">
        <button type="button" onClick={() => pick('index')}>Index a file</button>
        <button type="button" onClick={() => pick('tag')}>Tag a file</button>
        <input ref={file} className="unseen" type="file" tabIndex={-1} aria-label="Document"
          onChange={(e) => { const given = e.target.files?.[0]; if (given) void upload(given); e.target.value = ''; }} />
      </div>
      {error && <p className="error" role="alert">{error}</p>}
      {tasks.length === 0 && <p className="quiet">Nothing queued, nothing done.</p>}
      <ul className="tasks" aria-label="Tasks">
        {tasks.map((t) => (
          <li key={t.id}>
            <div className="row"><span className="grow name" title={t.name}>{t.kind}: {t.name}</span><span className={`badge ${t.state}`}>{t.state}</span></div>
            {RUNNING.includes(t.state) && <progress aria-label={`Progress of ${t.name}`} value={t.total ? t.done : undefined} max={t.total || 1} />}
            {RUNNING.includes(t.state) && t.note && <div className="quiet">{t.note}</div>}
            {t.error && t.state !== 'done' && <div className="error">{t.error}</div>}
            {Array.isArray(t.result?.tags) && <div className="quiet">{(t.result.tags as string[]).join(', ')}</div>}
            {t.kind === 'index' && t.result && <div className="quiet">{indexed(t.result)}</div>}
            <div className="row">
              {RUNNING.includes(t.state) && <button type="button" aria-label={`Cancel ${t.name}`} onClick={() => void tried(async () => { await post(`tasks/${t.id}/cancel`); await load(); })}>Cancel</button>}
              {['failed', 'cancelled'].includes(t.state) && <button type="button" aria-label={`Try again: ${t.name}`} onClick={() => void tried(async () => { await post(`tasks/${t.id}/retry`); await load(); })}>Try again</button>}
              {!RUNNING.includes(t.state) && <button type="button" aria-label={`Forget ${t.name}`} onClick={() => void tried(async () => { await call('DELETE', `tasks/${t.id}`); await load(); })}>Forget</button>}
            </div>
          </li>
        ))}
      </ul>
      <form role="search" className="row" onSubmit={(e) => { e.preventDefault(); void tried(async () => { const found = await post<Hit[]>('search', { query }); setHits(found); say(`${found.length} found.`); }); }}>
        <input type="search" aria-label="Search the documents" placeholder="Search the documents" className="grow" value={query} onChange={(e) => setQuery(e.target.value)} />
        <button type="submit" disabled={!query.trim()}>Search</button>
      </form>
      {hits && (hits.length === 0 ? <p className="quiet">Nothing found.</p> : (
        <ol className="hits" aria-label="Found">
          {hits.map((h, i) => <li key={i}><strong>{h.document}</strong>, page {h.page}{h.pictures.length > 0 && `, picture ${h.pictures.join(', ')}`}<p>{h.text.length > 240 ? `${h.text.slice(0, 240)}…` : h.text}</p></li>)}
        </ol>
      ))}
    </section>
  );
}
