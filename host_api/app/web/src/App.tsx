import type { UIMessage } from 'ai';
import { useCallback, useEffect, useRef, useState } from 'react';
import { call, feed, fresh, get, Refused, setKey, words, type Catalogue, type Folder, type Pull, type Session, type Status, type Task } from './api';
import { Chat } from './Chat';
import { language, setLanguage, t } from './i18n';
import { Models } from './Models';
import { Sessions } from './Sessions';
import { Sidecar, type Sample } from './Sidecar';
import { Tasks } from './Tasks';
import { Tools } from './Tools';

interface Stored { messages: UIMessage[]; siblings: Record<string, string[]>; running: boolean }
interface Open extends Stored { id: string; version: number; draft: string }
const inAddress = () => /^#chat=(\w[\w-]*)$/.exec(location.hash)?.[1];
const EMPTY: Catalogue = { models: [], providers: [], capabilities: [] };

export function App() {
  const [open, setOpen] = useState<Open>();
  const [sessions, setSessions] = useState<Session[]>([]);
  const [catalogue, setCatalogue] = useState<Catalogue>(EMPTY);
  const [tasks, setTasks] = useState<Task[]>([]);
  const [pulls, setPulls] = useState<Pull[]>([]);
  const [folders, setFolders] = useState<Folder[]>([]);
  const [status, setStatus] = useState<Status | null>(null);
  const [samples, setSamples] = useState<Sample[]>([]);
  const [locked, setLocked] = useState(false);
  const [tries, setTries] = useState(0);
  const [said, setSaid] = useState('');
  const [panels, setPanels] = useState({ chats: false, more: false });
  const input = useRef<HTMLTextAreaElement>(null);

  const load = useCallback(async (id: string, draft = '') => {
    const found = await get<Stored>(`chat/sessions/${encodeURIComponent(id)}`);
    setOpen((before) => ({ id, messages: found.messages, siblings: found.siblings, running: found.running, draft, version: (before?.version ?? 0) + 1 }));
  }, []);
  const resume = useCallback(async (id: string) => {
    await load(id);
    history.replaceState(null, '', `#chat=${id}`);
    setPanels((p) => ({ ...p, chats: false }));
    setSaid(t('Chat opened.'));
  }, [load]);
  const begin = useCallback(() => {
    setOpen((before) => ({ id: fresh(), messages: [], siblings: {}, running: false, draft: '', version: (before?.version ?? 0) + 1 }));
    history.replaceState(null, '', location.pathname + location.search);
    setPanels((p) => ({ ...p, chats: false }));
    input.current?.focus();
  }, []);
  const loadModels = useCallback(async () => {
    const [capabilities, models, providers] = await Promise.all([
      get<Catalogue['capabilities']>('models/capabilities'), get<Catalogue['models']>('models'), get<Catalogue['providers']>('models/providers'),
    ]);
    setCatalogue({ capabilities, models, providers });
  }, []);
  const loadSessions = useCallback(async () => setSessions(await get<Session[]>('chat/sessions')), []);

  const start = useCallback(async () => {
    try {
      await Promise.all([loadSessions(), loadModels()]);
      setLocked(false);
      setTries((n) => n + 1);
      const wanted = inAddress();
      if (wanted) await resume(wanted).catch(begin);
      else begin();
    } catch (error) {
      if (error instanceof Refused && error.status === 401) setLocked(true);
      else setSaid(words(error));
    }
  }, [begin, loadModels, loadSessions, resume]);
  useEffect(() => { void start(); }, [start]);

  useEffect(() => {
    if (locked) return;
    const gone = new AbortController();
    const seen = (topic: string, data: unknown) => {
      if (topic === 'status') {
        const now = data as Status;
        setStatus(now);
        setSamples((all) => [...all.slice(-119), { at: Date.now(), memory: now.sidecar.memory_bytes, tokens: now.sidecar.generated_tokens, pid: now.sidecar.pid }]);
      } else if (topic === 'sessions') setSessions(data as Session[]);
      else if (topic === 'models') setCatalogue(data as Catalogue);
      else if (topic === 'tasks') setTasks(data as Task[]);
      else if (topic === 'pulls') setPulls(data as Pull[]);
      else if (topic === 'folders') setFolders(data as Folder[]);
    };
    const lost = (error: unknown) => { setStatus(null); if (error instanceof Refused && error.status === 401) setLocked(true); };
    void feed(seen, lost, gone.signal);
    return () => gone.abort();
  }, [locked, tries]);

  if (locked) return <Door retry={start} />;

  const finished = (id: string) => {
    void loadSessions();
    // Only where it is still the chat that is shown: another may have been opened meanwhile.
    setOpen((now) => {
      if (now?.id !== id) return now;
      history.replaceState(null, '', `#chat=${id}`);
      void get<Stored>(`chat/sessions/${encodeURIComponent(id)}`)
        .then((found) => setOpen((later) => (later?.id === id && later.version === now.version ? { ...later, siblings: found.siblings } : later)), () => undefined);
      return now;
    });
  };
  const phase = status === null ? 'unreachable' : status.sidecar.phase;
  return (
    <>
      <a className="skip" href="#question" onClick={(e) => { e.preventDefault(); input.current?.focus(); }}>{t('Go to the question')}</a>
      <header>
        <button type="button" className="narrow" aria-expanded={panels.chats} aria-controls="chats"
          onClick={() => setPanels({ chats: !panels.chats, more: false })}>{t('Chats')}</button>
        <h1>mlx-sidecar</h1>
        <span className={`state ${phase}`} data-testid="phase"><span aria-hidden="true" className="dot" />{phase === 'unreachable' ? t('service unreachable') : t('model process: {phase}', { phase: t(phase) })}</span>
        <button type="button" lang={language === 'zh' ? 'en' : 'zh-Hans'} onClick={() => setLanguage(language === 'zh' ? 'en' : 'zh')}>{language === 'zh' ? 'English' : '中文'}</button>
        <button type="button" className="narrow" aria-expanded={panels.more} aria-controls="more"
          onClick={() => setPanels({ chats: false, more: !panels.more })}>{t('Models and tasks')}</button>
      </header>
      <div className="columns">
        <nav id="chats" aria-label={t('Chats')} className={panels.chats ? 'shown' : ''}>
          <Sessions sessions={sessions} current={open?.id} open={resume} begin={begin} say={setSaid}
            rename={async (id, title) => { await call('PATCH', `chat/sessions/${encodeURIComponent(id)}`, { title }); await loadSessions(); }}
            remove={async (id) => { await call('DELETE', `chat/sessions/${encodeURIComponent(id)}`); await loadSessions(); if (id === open?.id) begin(); }} />
        </nav>
        <main aria-label={t('Chat')}>
          {open && <Chat key={`${open.id} ${open.version}`} id={open.id} initial={open.messages} siblings={open.siblings} running={open.running} draft={open.draft}
            models={catalogue.models} input={input} say={setSaid} finished={finished}
            reload={(_, draft) => void load(open.id, draft).catch((e: unknown) => setSaid(words(e)))} />}
        </main>
        <aside id="more" aria-label={t('Models and tasks')} className={panels.more ? 'shown' : ''}>
          <Sidecar status={status} samples={samples} say={setSaid} />
          <Models {...catalogue} pulls={pulls} loaded={status?.sidecar.model ?? null} changed={loadModels} say={setSaid} />
          <Tasks tasks={tasks} folders={folders} catalogue={catalogue} pulls={pulls} trouble={status?.tasks_trouble ?? null} changed={loadModels} say={setSaid} />
          <Tools say={setSaid} />
        </aside>
      </div>
      <div role="status" aria-live="polite" className="unseen">{said}</div>
    </>
  );
}

function Door({ retry }: { retry: () => Promise<unknown> }) {
  const [key, change] = useState('');
  const [tries, tried] = useState(0);
  return (
    <main className="door">
      <h1>mlx-sidecar</h1>
      <form onSubmit={(e) => { e.preventDefault(); setKey(key.trim()); void retry().then(() => tried(tries + 1)); }}>
        <p>{t('This service asks for its key. “mlx-host open” opens this page with it.')}</p>
        <label htmlFor="key">{t('The key, from the file “key” in the data directory or the one named by --api-key-file')}</label>
        <input id="key" type="password" autoComplete="off" autoFocus value={key} onChange={(e) => change(e.target.value)} />
        {tries > 0 && <p className="error" role="alert">{t('The service does not take that key.')}</p>}
        <button type="submit" className="primary" disabled={!key.trim()}>{t('Continue')}</button>
      </form>
    </main>
  );
}
