import { useEffect, useState } from 'react';
import { get, type Capability, type Detail, type Model, type Provider, type Pull } from './api';
import { amount, duration } from './amounts';
import { t } from './i18n';

const label = (name: string) => t(name.replaceAll('_', ' '));
const MANY = 6; // models, from which on the cards are folded away

interface Props { models: Model[]; providers: Provider[]; capabilities: Capability[]; pulls: Pull[]; loaded: string | null }

/** What is installed or known: size, memory, what each can and what it is used for, with its profiles. */
export function Cards({ models, providers, capabilities, pulls, loaded }: Props) {
  const [details, setDetails] = useState<Record<string, Detail>>({});
  const [open, setOpen] = useState<boolean>();
  const present = models.filter((m) => m.present);
  const shown = open ?? present.length <= MANY;
  const done = pulls.filter((p) => p.state === 'done').length;
  useEffect(() => {
    if (!shown) return;
    // Where the model process is off there is nothing to tell: the cards then say what is remembered.
    const look = () => { get<{ data: Detail[] }>('models/details').then((found) => setDetails(Object.fromEntries(found.data.map((d) => [d.id, d]))), () => setDetails({})); };
    look();
    const again = setInterval(look, 15_000);
    return () => clearInterval(again);
  }, [shown, done, loaded, present.length]);
  const detail = (m: Model) => (m.provider_id === 'builtin' ? details[m.name] : undefined);
  const isProfile = (m: Model) => detail(m)?.parent !== undefined;
  const uses = (m: Model) => capabilities.filter((c) => c.model?.id === m.id).map((c) => label(c.name));
  return (
    <details open={shown} onToggle={(e) => setOpen(e.currentTarget.open)}>
      <summary>{t('Models at hand ({n})', { n: present.filter((m) => !isProfile(m)).length })}</summary>
      <ul className="cards" aria-label={t('Models at hand')}>
        {present.filter((m) => !isProfile(m)).map((m) => {
          const d = detail(m);
          const profiles = present.filter((p) => detail(p)?.parent === m.name && p.provider_id === m.provider_id);
          return (
            <li key={m.id} className="card">
              <span className="row"><strong className="grow">{m.name}</strong>{d ? <span className="quiet">{amount(d.size_bytes)}</span> : <span className="quiet">{providers.find((p) => p.id === m.provider_id)?.name}</span>}</span>
              {d && <span className="quiet">{[d.title !== m.name && d.title, d.context_length && t('{n} tokens of context', { n: d.context_length.toLocaleString() }), d.license].filter(Boolean).join(', ')}</span>}
              <span className="row badges">{Object.entries(m.capabilities).filter(([, has]) => has).map(([name]) => <span key={name} className="badge">{label(name)}</span>)}</span>
              {d && <span className="quiet">{d.loaded ? [t('in memory: {size}', { size: amount(d.bytes ?? 0) }), d.unloads_in && t('leaves in {time}', { time: duration(d.unloads_in) })].filter(Boolean).join(', ') : t('not in memory')}</span>}
              {uses(m).length > 0 && <span className="quiet">{t('used for {names}', { names: uses(m).join(', ') })}</span>}
              {profiles.length > 0 && (
                <ul className="plain profiles" aria-label={t('Profiles of {name}', { name: m.name })}>
                  {profiles.map((p) => (
                    <li key={p.id}>
                      <span className="badge">{p.name.slice(m.name.length + 1)}</span>{' '}
                      <span className="quiet">{Object.entries(detail(p)?.settings ?? {}).map(([name, value]) => `${name.replaceAll('_', ' ')} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}`).join(', ')}</span>
                      {uses(p).length > 0 && <span className="quiet">; {t('used for {names}', { names: uses(p).join(', ') })}</span>}
                    </li>
                  ))}
                </ul>
              )}
            </li>
          );
        })}
      </ul>
    </details>
  );
}
