import { useCallback, useEffect, useRef, useState } from 'react';
import { call, get, post, words, type Model, type Offer, type Pull } from './api';

interface Props {
  models: Model[];
  changed: () => Promise<void>;
  say: (text: string) => void;
}

const size = (bytes: number) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes >= 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.ceil(bytes / 1e3)} kB`);
const time = (seconds: number) => (seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.ceil(seconds)} s`);

/** How far a download is, in words. */
function far(pull: Pull): string {
  if (!pull.total) return pull.message || `${pull.status ?? 'starting'}…`;
  const parts = [`${size(pull.completed ?? 0)} of ${size(pull.total)}`];
  if (pull.rate) parts.push(`${size(pull.rate)}/s`);
  if (pull.seconds_left) parts.push(`${time(pull.seconds_left)} left`);
  return `${pull.status === 'downloading' ? '' : `${pull.status}: `}${parts.join(', ')}${pull.message ? ` (${pull.message})` : ''}`;
}

export function Downloads({ models, changed, say }: Props) {
  const [open, setOpen] = useState(false);
  const [offers, setOffers] = useState<Offer[]>([]);
  const [pulls, setPulls] = useState<Pull[]>([]);
  const [error, setError] = useState('');
  const [other, setOther] = useState('');
  const known = useRef(new Map<string, string>());
  const list = useRef<HTMLUListElement>(null);
  const held = useRef<string>(undefined);

  // A button that had the focus gives it to the one that takes its place.
  const hold = () => {
    const at = document.activeElement;
    if (at !== document.body) held.current = at instanceof HTMLElement ? at.dataset.model : undefined;
  };
  useEffect(() => {
    if (held.current && document.activeElement === document.body) list.current?.querySelector<HTMLElement>(`[data-model="${CSS.escape(held.current)}"]`)?.focus();
  }, [pulls, offers]);

  const load = useCallback(async () => {
    const found = await get<Pull[]>('models/pulls');
    hold();
    setPulls(found);
    const ended = found.filter((p) => known.current.get(p.model) === 'running' && p.state !== 'running');
    known.current = new Map(found.map((p) => [p.model, p.state]));
    for (const p of ended) say(p.state === 'done' ? `${p.model} is here.` : p.state === 'failed' ? `${p.model}: ${p.error}` : `The download of ${p.model} was cancelled.`);
    if (ended.some((p) => p.state === 'done')) await changed();
    return ended.length > 0;
  }, [changed, say]);
  const look = useCallback(async () => { const found = await get<{ data: Offer[] }>('models/catalogue'); hold(); setOffers(found.data); }, []);
  const tried = useCallback(async (work: () => Promise<unknown>) => {
    setError('');
    try {
      await work();
    } catch (e) {
      setError(words(e));
    }
  }, []);

  useEffect(() => { if (open) void tried(async () => { await load(); await look(); }); }, [open, load, look, tried]);
  const busy = pulls.some((p) => p.state === 'running');
  useEffect(() => {
    if (!open || !busy) return;
    const due = setInterval(() => { void load().then((ended) => (ended ? look() : undefined)).catch((e: unknown) => setError(words(e))); }, 500);
    return () => clearInterval(due);
  }, [open, busy, load, look]);

  const start = (model: string) => tried(async () => {
    await post('models/pulls', { model });
    known.current.set(model, 'running');
    say(`${model} is being downloaded.`);
    await load();
  });
  const end = (pull: Pull) => tried(async () => {
    await call('DELETE', `models/pulls/${encodeURIComponent(pull.model)}`);
    await load();
  });
  const use = (offer: Offer) => tried(async () => {
    const model = models.find((m) => m.provider_id === 'builtin' && m.name === offer.alias);
    if (!model) throw new Error(`${offer.alias} is not listed yet; look up the models of the built-in provider.`);
    for (const capability of offer.capabilities) await post(`models/global_capability/${capability}`, { model_id: model.id });
    await changed();
    say(`${offer.alias} now serves ${offer.capabilities.join(', ').replaceAll('_', ' ')}.`);
  });

  const running = (pull: Pull) => (
    <>
      <progress aria-label={`Download of ${pull.model}`} value={pull.total ? (pull.completed ?? 0) : undefined} max={pull.total || 1} />
      <p className="quiet">{far(pull)}</p>
      <button type="button" data-model={pull.model} aria-label={`Cancel the download of ${pull.model}`} onClick={() => void end(pull)}>Cancel</button>
    </>
  );
  const ended = (pull: Pull) => (
    <>
      {pull.state === 'failed' && <p className="error">{pull.error}</p>}
      {pull.state === 'cancelled' && <p className="quiet">Cancelled. What came is kept: the next download goes on there.</p>}
    </>
  );
  const aliases = new Set(offers.map((o) => o.alias));

  return (
    <details open={open} onToggle={(e) => setOpen(e.currentTarget.open)}>
      <summary>Download models</summary>
      {error && <p className="error" role="alert">{error}</p>}
      <ul ref={list} className="plain offers" aria-label="Models to download">
        {offers.map((o) => {
          const pull = pulls.find((p) => p.model === o.alias);
          const here = o.installed || pull?.state === 'done';
          return (
            <li key={o.alias}>
              <div className="row">
                <span className="grow"><strong>{o.alias}</strong></span>
                {here ? <span className="badge done">here</span> : o.recommended ? <span className="badge">recommended</span> : null}
                <span className="quiet">{o.size_gb} GB</span>
              </div>
              <p className="quiet">{o.title}: {o.good_at}. {o.license}.{o.fits ? '' : ` Needs ${o.min_memory_gb} GB of memory.`}</p>
              {pull?.state === 'running' ? running(pull) : (
                <>
                  {pull && !here && ended(pull)}
                  {here ? <button type="button" data-model={o.alias} aria-label={`Use ${o.alias} for all it can do`} onClick={() => void use(o)}>Use</button>
                    : o.hub_id && <button type="button" data-model={o.alias} aria-label={`${pull ? 'Try again:' : 'Download'} ${o.alias}`} onClick={() => void start(o.alias)}>{pull ? 'Try again' : 'Download'}</button>}
                </>
              )}
            </li>
          );
        })}
        {pulls.filter((p) => !aliases.has(p.model)).map((p) => (
          <li key={p.model}>
            <div className="row"><strong className="grow">{p.model}</strong><span className={`badge ${p.state}`}>{p.state === 'done' ? 'here' : p.state}</span></div>
            {p.state === 'running' ? running(p) : (
              <>
                {ended(p)}
                <div className="row">
                  {p.state !== 'done' && <button type="button" data-model={p.model} aria-label={`Try again: ${p.model}`} onClick={() => void start(p.model)}>Try again</button>}
                  <button type="button" aria-label={`Forget ${p.model}`} onClick={() => void end(p)}>Forget</button>
                </div>
              </>
            )}
          </li>
        ))}
      </ul>
      <form className="row" onSubmit={(e) => { e.preventDefault(); void start(other.trim()).then(() => setOther('')); }}>
        <input aria-label="Another model of the hub" placeholder="owner/name" className="grow" value={other} maxLength={200} onChange={(e) => setOther(e.target.value)} />
        <button type="submit" disabled={!other.trim()}>Download</button>
      </form>
    </details>
  );
}
