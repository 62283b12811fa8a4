import type { UIMessage } from 'ai';
import { useCallback, useEffect, useRef, useState } from 'react';
import { call, fresh, get, Refused, setKey, words, type Capability, type Model, type Provider, type Session, type Status } from './api';
import { Chat } from './Chat';
import { Models } from './Models';
import { Sessions } from './Sessions';
import { Sidecar } from './Sidecar';
import { Tasks } from './Tasks';

interface Open { id: string; messages: UIMessage[] }
const inAddress = () => /^#chat=(\w[\w-]*)$/.exec(location.hash)?.[1];

export function App() {
  const [open, setOpen] = useState<Open>();
  const [sessions, setSessions] = useState<Session[]>([]);
  const [capabilities, setCapabilities] = useState<Capability[]>([]);
  const [models, setModels] = useState<Model[]>([]);
  const [providers, setProviders] = useState<Provider[]>([]);
  const [status, setStatus] = useState<Status | null>(null);
  const [locked, setLocked] = useState(false);
  const [said, setSaid] = useState('');
  const [panels, setPanels] = useState({ chats: false, more: false });
  const input = useRef<HTMLTextAreaElement>(null);

  const guarded = useCallback(async (work: () => Promise<void>) => {
    try {
      await work();
      setLocked(false);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) setLocked(true);
      else throw error;
    }
  }, []);

  const loadSessions = useCallback(async () => setSessions(await get<Session[]>('chat/sessions')), []);
  const loadModels = useCallback(async () => {
    const [all, known, from] = await Promise.all([
      get<Capability[]>('models/capabilities'), get<Model[]>('models'), get<Provider[]>('models/providers'),
    ]);
    setCapabilities(all);
    setModels(known);
    setProviders(from);
  }, []);

  const resume = useCallback(async (id: string) => {
    const found = await get<{ messages: UIMessage[] }>(`chat/sessions/${id}`);
    setOpen({ id, messages: found.messages });
    history.replaceState(null, '', `#chat=${id}`);
    setPanels((p) => ({ ...p, chats: false }));
    setSaid('Chat opened.');
  }, []);
  const begin = useCallback(() => {
    setOpen({ id: fresh(), messages: [] });
    history.replaceState(null, '', location.pathname + location.search);
    setPanels((p) => ({ ...p, chats: false }));
    input.current?.focus();
  }, []);

  const start = useCallback(() => guarded(async () => {
    await Promise.all([loadSessions(), loadModels()]);
    const wanted = inAddress();
    if (wanted) await resume(wanted).catch(begin);
    else begin();
  }).catch((error: unknown) => setSaid(words(error))), [begin, guarded, loadModels, loadSessions, resume]);
  useEffect(() => { void start(); }, [start]);

  useEffect(() => {
    let due: ReturnType<typeof setTimeout>;
    let before = '';
    const look = async () => {
      if (!document.hidden && !locked) {
        try {
          const found = await get<Status>('status');
          setStatus(found);
          const now = `${found.sidecar.phase} ${found.sidecar.pid}`;
          if (before && before !== now) void loadModels();
          before = now;
        } catch (error) {
          if (error instanceof Refused && error.status === 401) setLocked(true);
          setStatus(null);
        }
      }
      due = setTimeout(look, 2000);
    };
    void look();
    return () => clearTimeout(due);
  }, [loadModels, locked]);

  if (locked) return <Door retry={start} />;

  const phase = status === null ? 'unreachable' : status.sidecar.phase;
  return (
    <>
      <a className="skip" href="#question" onClick={(e) => { e.preventDefault(); input.current?.focus(); }}>Go to the question</a>
      <header>
        <button type="button" className="narrow" aria-expanded={panels.chats} aria-controls="chats"
          onClick={() => setPanels({ chats: !panels.chats, more: false })}>Chats</button>
        <h1>mlx-sidecar</h1>
        <span className={`state ${phase}`} data-testid="phase"><span aria-hidden="true" className="dot" />{phase === 'unreachable' ? 'service unreachable' : `model process: ${phase}`}</span>
        <button type="button" className="narrow" aria-expanded={panels.more} aria-controls="more"
          onClick={() => setPanels({ chats: false, more: !panels.more })}>Models and tasks</button>
      </header>
      <div className="columns">
        <nav id="chats" aria-label="Chats" className={panels.chats ? 'shown' : ''}>
          <Sessions sessions={sessions} current={open?.id} open={resume} begin={begin} say={setSaid}
            rename={async (id, title) => { await call('PATCH', `chat/sessions/${id}`, { title }); await loadSessions(); }}
            remove={async (id) => { await call('DELETE', `chat/sessions/${id}`); await loadSessions(); if (id === open?.id) begin(); }} />
        </nav>
        <main aria-label="Chat">
          {open && <Chat key={open.id} id={open.id} initial={open.messages} models={models} input={input} say={setSaid}
            finished={() => { history.replaceState(null, '', `#chat=${open.id}`); void loadSessions(); }} />}
        </main>
        <aside id="more" aria-label="Models and tasks" className={panels.more ? 'shown' : ''}>
          <Sidecar status={status} say={setSaid} />
          <Models capabilities={capabilities} models={models} providers={providers} changed={loadModels} say={setSaid} />
          <Tasks say={setSaid} />
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
        <p>This service was started with a key.</p>
        <label htmlFor="key">The key, from the file named by --api-key-file</label>
        <input id="key" type="password" autoComplete="off" autoFocus value={key} onChange={(e) => change(e.target.value)} />
        {tries > 0 && <p className="error" role="alert">The service does not take that key.</p>}
        <button type="submit" className="primary" disabled={!key.trim()}>Continue</button>
      </form>
    </main>
  );
}
