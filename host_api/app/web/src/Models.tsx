import { useState } from 'react';
import { call, post, words, type Capability, type Model, type Provider, type Pull } from './api';
import { Cards } from './Cards';
import { Downloads } from './Downloads';
import { t } from './i18n';

interface Props {
  capabilities: Capability[];
  models: Model[];
  providers: Provider[];
  pulls: Pull[];
  loaded: string | null;
  changed: () => Promise<void>;
  say: (text: string) => void;
}

const label = (name: string) => t(name.replaceAll('_', ' '));

export function Models({ capabilities, models, providers, pulls, loaded, changed, say }: Props) {
  const [error, setError] = useState('');
  const tried = async (work: () => Promise<string>) => {
    setError('');
    try {
      say(await work());
    } catch (e) {
      setError(words(e));
    }
    await changed().catch(() => undefined);
  };
  const assign = (capability: string, id: string) => tried(async () => {
    const after = await post<{ sidecar: { happened: string } }>(`models/global_capability/${capability}`, { model_id: id ? Number(id) : null });
    return t('{capability} changed; the model process: {happened}.', { capability: label(capability), happened: label(after.sidecar.happened) });
  });
  const add = (form: HTMLFormElement) => tried(async () => {
    const data = new FormData(form);
    const made = await post<Provider>('models/providers', {
      name: data.get('name'), base_url: data.get('base_url'), api_key: data.get('api_key') || null,
    });
    form.reset();
    const found = await post<Model[]>(`models/provider/${made.id}/discover`);
    return t('{name} was added with {n} models.', { name: made.name, n: found.filter((m) => m.provider_id === made.id).length });
  });
  return (
    <section aria-labelledby="models-title">
      <h2 id="models-title">{t('Models')}</h2>
      <div className="grid">
        {capabilities.map((c) => (
          <div key={c.name} className="pair">
            <label htmlFor={`capability-${c.name}`} title={t(c.description)}>{label(c.name)}</label>
            <select id={`capability-${c.name}`} value={c.model?.id ?? ''} onChange={(e) => void assign(c.name, e.target.value)}>
              <option value="">{t('none')}</option>
              {providers.map((p) => (
                <optgroup key={p.id} label={p.name}>
                  {models.filter((m) => m.provider_id === p.id && (m.present || m.id === c.model?.id) && m.capabilities[c.name] !== false)
                    .map((m) => <option key={m.id} value={m.id}>{m.name}{m.present ? '' : ` (${t('gone')})`}</option>)}
                </optgroup>
              ))}
            </select>
          </div>
        ))}
      </div>
      {error && <p className="error" role="alert">{error}</p>}
      <Cards models={models} providers={providers} capabilities={capabilities} pulls={pulls} loaded={loaded} />
      <Downloads models={models} pulls={pulls} changed={changed} say={say} />
      <details>
        <summary>{t('Providers')}</summary>
        <ul className="plain">
          {providers.map((p) => (
            <li key={p.id} className="row">
              <span className="grow" title={p.base_url ?? ''}>{p.name}</span>
              <button type="button" aria-label={t('Look up models of {name}', { name: p.name })}
                onClick={() => void tried(async () => { await post(`models/provider/${p.id}/discover`); return t('Models looked up.'); })}>{t('Look up')}</button>
              {p.kind !== 'builtin' && <button type="button" aria-label={t('Remove {name}', { name: p.name })}
                onClick={() => { if (window.confirm(t('Remove {name}?', { name: p.name }))) void tried(async () => { await call('DELETE', `models/providers/${p.id}`); return t('Provider removed.'); }); }}>{t('Remove')}</button>}
            </li>
          ))}
        </ul>
        <form className="stack" onSubmit={(e) => { e.preventDefault(); void add(e.currentTarget); }}>
          <label>{t('Name')} <input name="name" required maxLength={100} /></label>
          <label>{t('Address')} <input name="base_url" type="url" required placeholder="http://127.0.0.1:11434/v1" /></label>
          <label>{t('Key')} <input name="api_key" type="password" autoComplete="off" /></label>
          <button type="submit">{t('Add provider')}</button>
        </form>
      </details>
    </section>
  );
}

