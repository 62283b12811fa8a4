import { useCallback, useEffect, useRef, useState } from 'react';
import { call, post, send, words, type Catalogue, type Folder, type Hit, type Pull, type Task } from './api';
import { Folders } from './Folders';
import { t } from './i18n';
import { Languages } from './Languages';

const RUNNING = ['queued', 'running'];

function indexed(result: Record<string, unknown>): string {
  const pages = Number(result.pages);
  const pictures = Number(result.pictures);
  const read = pages === 1 ? t('1 page') : t('{n} pages', { n: pages });
  return pictures ? `${read}, ${t('{n} of {all} pictures described', { n: String(result.described), all: pictures })}` : read;
}

const SHOWN = 20; // tasks, unless all are asked for

interface Props {
  tasks: Task[]; folders: Folder[]; catalogue: Catalogue; pulls: Pull[]; trouble: string | null;
  changed: () => Promise<void>; say: (text: string) => void;
}

export function Tasks({ tasks, folders, catalogue, pulls, trouble, changed, say }: Props) {
  const [all, setAll] = useState(false);
  const [error, setError] = useState('');
  const [query, setQuery] = useState('');
  const [hits, setHits] = useState<Hit[]>();
  const [sending, setSending] = useState('');
  const [sent, setSent] = useState(0);
  const before = useRef(new Map<string, string>());
  const file = useRef<HTMLInputElement>(null);
  const kind = useRef('index');

  const tried = useCallback(async (work: () => Promise<unknown>) => {
    setError('');
    try {
      await work();
    } catch (e) {
      setError(words(e));
    }
  }, []);
  useEffect(() => {
    for (const task of tasks) {
      const was = before.current.get(task.id);
      if (was && RUNNING.includes(was) && !RUNNING.includes(task.state)) say(`${task.name}: ${t(task.state)}.`);
    }
    before.current = new Map(tasks.map((task) => [task.id, task.state]));
  }, [tasks, say]);

  const upload = (given: File) => tried(async () => {
    setSending(given.name);
    const form = new FormData();
    form.append('file', given);
    await send(`tasks/${kind.current}`, form, setSent);
    say(t('{name} is queued.', { name: given.name }));
  }).finally(() => { setSending(''); setSent(0); });
  const pick = (what: string) => { kind.current = what; file.current?.click(); };

  return (
    <section aria-labelledby="tasks-title">
      <h2 id="tasks-title">{t('Documents and tasks')}</h2>
      <div className="row">
        <button type="button" onClick={() => pick('index')}>{t('Index a file')}</button>
        <button type="button" onClick={() => pick('tag')}>{t('Tag a file')}</button>
        <input ref={file} className="unseen" type="file" tabIndex={-1} aria-label={t('Document')}
          onChange={(e) => { const given = e.target.files?.[0]; if (given) void upload(given); e.target.value = ''; }} />
      </div>
      <Languages tasks={tasks} catalogue={catalogue} pulls={pulls} changed={changed} say={say} />
      {sending && (
        <>
          <p className="quiet">{t('{name} is being sent…', { name: sending })} {Math.round(sent * 100)} %</p>
          <progress aria-label={t('{name} is being sent…', { name: sending })} value={sent} max={1} />
        </>
      )}
      {trouble && <p className="error">{trouble}</p>}
      {error && <p className="error" role="alert">{error}</p>}
      {tasks.length === 0 && <p className="quiet">{t('Nothing queued, nothing done.')}</p>}
      <ul className="tasks" aria-label={t('Tasks')}>
        {(all ? tasks : tasks.slice(0, SHOWN)).map((task) => (
          <li key={task.id}>
            <div className="row"><span className="grow name" title={task.name}>{t(task.kind)}: {task.name}</span><span className={`badge ${task.state}`}>{t(task.state)}</span></div>
            {RUNNING.includes(task.state) && <progress aria-label={t('Progress of {name}', { name: task.name })} value={task.total ? task.done : undefined} max={task.total || 1} />}
            {RUNNING.includes(task.state) && task.note && <div className="quiet">{task.note}</div>}
            {task.error && task.state !== 'done' && <div className="error">{task.error}</div>}
            {Array.isArray(task.result?.tags) && <div className="quiet">{(task.result.tags as string[]).join(', ')}</div>}
            {task.kind === 'index' && task.result && <div className="quiet">{indexed(task.result)}</div>}
            {Array.isArray(task.result?.notes) && task.result.notes.length > 0 && <div className="quiet">{(task.result.notes as string[]).slice(0, 5).join('; ')}</div>}
            {typeof task.result?.note === 'string' && <div className="quiet">{task.result.note}</div>}
            <div className="row">
              {RUNNING.includes(task.state) && <button type="button" aria-label={t('Cancel {name}', { name: task.name })} onClick={() => void tried(async () => { await post(`tasks/${task.id}/cancel`); })}>{t('Cancel')}</button>}
              {['failed', 'cancelled'].includes(task.state) && <button type="button" aria-label={t('Try again: {name}', { name: task.name })} onClick={() => void tried(async () => { await post(`tasks/${task.id}/retry`); })}>{t('Try again')}</button>}
              {!RUNNING.includes(task.state) && <button type="button" aria-label={t('Forget {name}', { name: task.name })} onClick={() => void tried(async () => { await call('DELETE', `tasks/${task.id}`); })}>{t('Forget')}</button>}
            </div>
          </li>
        ))}
      </ul>
      {tasks.length > SHOWN && !all && <button type="button" onClick={() => setAll(true)}>{t('Show all {n} tasks', { n: tasks.length })}</button>}
      <Folders folders={folders} say={say} />
      <form role="search" className="row" onSubmit={(e) => { e.preventDefault(); void tried(async () => { const found = await post<Hit[]>('search', { query }); setHits(found); say(t('{n} found.', { n: found.length })); }); }}>
        <input type="search" aria-label={t('Search the documents')} placeholder={t('Search the documents')} className="grow" value={query} onChange={(e) => setQuery(e.target.value)} />
        <button type="submit" disabled={!query.trim()}>{t('Search')}</button>
      </form>
      {hits && (hits.length === 0 ? <p className="quiet">{t('Nothing found.')}</p> : (
        <ol className="hits" aria-label={t('Found')}>
          {hits.map((h, i) => <li key={i}><strong>{h.document}</strong>, {t('page {n}', { n: h.page })}{h.pictures.length > 0 && `, ${t('picture {n}', { n: h.pictures.join(', ') })}`}<p>{h.text.length > 240 ? `${h.text.slice(0, 240)}…` : h.text}</p></li>)}
        </ol>
      ))}
    </section>
  );
}
