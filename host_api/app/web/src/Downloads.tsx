import { useCallback, useEffect, useRef, useState, type FocusEvent } from 'react';
import { call, get, post, words, type Model, type Offer, type Pull } from './api';
import { amount, duration } from './amounts';
import { t } from './i18n';

interface Props {
  models: Model[];
  pulls: Pull[];
  changed: () => Promise<void>;
  say: (text: string) => void;
}

/** How far a download is, in words. */
function far(pull: Pull): string {
  if (!pull.total) return pull.message || `${pull.status ?? 'starting'}…`;
  const parts = [t('{done} of {all}', { done: amount(pull.completed ?? 0), all: amount(pull.total) })];
  if (pull.rate) parts.push(`${amount(pull.rate)}/s`);
  if (pull.seconds_left) parts.push(t('{time} left', { time: duration(pull.seconds_left) }));
  return `${pull.status === 'downloading' ? '' : `${pull.status}: `}${parts.join(', ')}${pull.message ? ` (${pull.message})` : ''}`;
}

export function Downloads({ models, pulls, changed, say }: Props) {
  const [open, setOpen] = useState(false);
  const [offers, setOffers] = useState<Offer[]>([]);
  const [error, setError] = useState('');
  const [other, setOther] = useState('');
  const known = useRef(new Map<string, string>());
  const list = useRef<HTMLUListElement>(null);
  const held = useRef<string>(undefined);

  // A button that had the focus gives it to the one that takes its place. One that is taken away says nothing of where
  // the focus went; one that is still there was left on purpose.
  const entered = (e: FocusEvent<HTMLElement>) => { held.current = e.target.dataset.model; };
  const left = (e: FocusEvent<HTMLElement>) => {
    const at = e.target;
    if (e.relatedTarget) held.current = undefined;
    else setTimeout(() => { if (at.isConnected && document.activeElement !== at) held.current = undefined; });
  };
  useEffect(() => {
    if (held.current && document.activeElement === document.body) list.current?.querySelector<HTMLElement>(`[data-model="${CSS.escape(held.current)}"]`)?.focus();
  }, [pulls, offers]);

  const look = useCallback(async () => { setOffers((await get<{ data: Offer[] }>('models/catalogue')).data); }, []);
  const tried = useCallback(async (work: () => Promise<unknown>) => {
    setError('');
    try {
      await work();
    } catch (e) {
      setError(words(e));
    }
  }, []);

  useEffect(() => { if (open) void tried(look); }, [open, look, tried]);
  useEffect(() => {
    const ended = pulls.filter((p) => known.current.get(p.model) === 'running' && p.state !== 'running');
    known.current = new Map(pulls.map((p) => [p.model, p.state]));
    for (const p of ended) say(p.state === 'done' ? t('{name} is here.', { name: p.model }) : p.state === 'failed' ? `${p.model}: ${p.error}` : t('The download of {name} was cancelled.', { name: p.model }));
    if (ended.length > 0 && open) void tried(look);
    if (ended.some((p) => p.state === 'done')) void changed();
  }, [pulls, open, look, tried, changed, say]);

  const start = (model: string) => tried(async () => {
    await post('models/pulls', { model });
    known.current.set(model, 'running');
    say(t('{name} is being downloaded.', { name: model }));
  });
  const end = (pull: Pull) => tried(async () => {
    await call('DELETE', `models/pulls/${encodeURIComponent(pull.model)}`);
  });
  const use = (offer: Offer) => tried(async () => {
    const model = models.find((m) => m.provider_id === 'builtin' && m.name === offer.alias);
    if (!model) throw new Error(t('{name} is not listed yet; look up the models of the built-in provider.', { name: offer.alias }));
    for (const capability of offer.capabilities) await post(`models/global_capability/${capability}`, { model_id: model.id });
    await changed();
    say(t('{name} now serves {capabilities}.', { name: offer.alias, capabilities: offer.capabilities.join(', ').replaceAll('_', ' ') }));
  });

  const running = (pull: Pull) => (
    <>
      <progress aria-label={t('Download of {name}', { name: pull.model })} value={pull.total ? (pull.completed ?? 0) : undefined} max={pull.total || 1} />
      <p className="quiet">{far(pull)}</p>
      <button type="button" data-model={pull.model} aria-label={t('Cancel the download of {name}', { name: pull.model })} onClick={() => void end(pull)}>{t('Cancel')}</button>
    </>
  );
  const ended = (pull: Pull) => (
    <>
      {pull.state === 'failed' && <p className="error">{pull.error}</p>}
      {pull.state === 'cancelled' && <p className="quiet">{t('Cancelled. What came is kept: the next download goes on there.')}</p>}
    </>
  );
  const aliases = new Set(offers.map((o) => o.alias));

  return (
    <details open={open} onToggle={(e) => setOpen(e.currentTarget.open)}>
      <summary>{t('Download models')}</summary>
      {error && <p className="error" role="alert">{error}</p>}
      <ul ref={list} className="plain offers" onFocus={entered} onBlur={left} aria-label={t('Models to download')}>
        {offers.map((o) => {
          const pull = pulls.find((p) => p.model === o.alias);
          const here = o.installed || pull?.state === 'done';
          return (
            <li key={o.alias}>
              <div className="row">
                <span className="grow"><strong>{o.alias}</strong></span>
                {here ? <span className="badge done">{t('here')}</span> : o.recommended ? <span className="badge">{t('recommended')}</span> : null}
                <span className="quiet">{o.size_gb} GB</span>
              </div>
              <p className="quiet">{o.title}: {o.good_at}. {o.license}.</p>
              <p className="row badges">{o.capabilities.map((c) => <span key={c} className="badge">{t(c.replaceAll('_', ' '))}</span>)}<span className={o.fits ? 'quiet' : 'error'}>{o.fits ? t('for {n} GB of memory and more', { n: o.min_memory_gb }) : t('Needs {n} GB of memory.', { n: o.min_memory_gb })}</span></p>
              {pull?.state === 'running' ? running(pull) : (
                <>
                  {pull && !here && ended(pull)}
                  {here ? <button type="button" data-model={o.alias} aria-label={t('Use {name} for all it can do', { name: o.alias })} onClick={() => void use(o)}>{t('Use')}</button>
                    : o.hub_id && <button type="button" data-model={o.alias} aria-label={pull ? t('Try again: {name}', { name: o.alias }) : t('Download {name}', { name: o.alias })} onClick={() => void start(o.alias)}>{pull ? t('Try again') : t('Download')}</button>}
                </>
              )}
            </li>
          );
        })}
        {pulls.filter((p) => !aliases.has(p.model)).map((p) => (
          <li key={p.model}>
            <div className="row"><strong className="grow">{p.model}</strong><span className={`badge ${p.state}`}>{p.state === 'done' ? t('here') : t(p.state)}</span></div>
            {p.state === 'running' ? running(p) : (
              <>
                {ended(p)}
                <div className="row">
                  {p.state !== 'done' && <button type="button" data-model={p.model} aria-label={t('Try again: {name}', { name: p.model })} onClick={() => void start(p.model)}>{t('Try again')}</button>}
                  <button type="button" aria-label={t('Forget {name}', { name: p.model })} onClick={() => void end(p)}>{t('Forget')}</button>
                </div>
              </>
            )}
          </li>
        ))}
      </ul>
      <form className="row" onSubmit={(e) => { e.preventDefault(); void start(other.trim()).then(() => setOther('')); }}>
        <input aria-label={t('Another model of the hub')} placeholder="owner/name" className="grow" value={other} maxLength={200} onChange={(e) => setOther(e.target.value)} />
        <button type="submit" disabled={!other.trim()}>{t('Download')}</button>
      </form>
    </details>
  );
}
