import { useEffect, useState } from 'react';
import { get, post, words, type Catalogue, type Offer, type Pull, type Task } from './api';
import { t } from './i18n';

const OFFERED = 'multilingual-embedding';
// As the service's own ranking judges it: what these models make of another language orders it by chance.
const knowsEnglishOnly = (name: string) => name === 'starter-embedding' || (!/multilingual/i.test(name) && /minilm|-en/i.test(name));

interface Props { tasks: Task[]; catalogue: Catalogue; pulls: Pull[]; changed: () => Promise<void>; say: (text: string) => void }

/** Where documents are in a language that the embedding model doesn't know: which model does, and a button for it. */
export function Languages({ tasks, catalogue, pulls, changed, say }: Props) {
  const [offer, setOffer] = useState<Offer>();
  const [error, setError] = useState('');
  const used = catalogue.capabilities.find((c) => c.name === 'embedding')?.model;
  const foreign = [...new Set(tasks.filter((x) => x.kind === 'index' && x.state === 'done').map((x) => String(x.result?.language ?? '')))].filter((x) => x && x !== 'English');
  const wanted = foreign.length > 0 && used !== undefined && used !== null && knowsEnglishOnly(used.name);
  const pull = pulls.find((p) => p.model === OFFERED);
  const done = pull?.state === 'done';
  useEffect(() => {
    if (wanted) get<{ data: Offer[] }>('models/catalogue').then((found) => setOffer(found.data.find((o) => o.alias === OFFERED)), () => undefined);
  }, [wanted, done]);
  if (!wanted || !offer) return null;
  const here = catalogue.models.find((m) => m.provider_id === 'builtin' && m.present && m.name === OFFERED);
  const tried = async (work: () => Promise<unknown>) => {
    setError('');
    try { await work(); } catch (e) { setError(words(e)); }
  };
  const use = () => tried(async () => {
    await post('models/global_capability/embedding', { provider_id: 'builtin', model: OFFERED });
    await changed();
    say(t('{name} now serves {capabilities}.', { name: OFFERED, capabilities: t('embedding') }));
  });
  const fetch_ = () => tried(async () => { await post('models/pulls', { model: OFFERED }); say(t('{name} is being downloaded.', { name: OFFERED })); });
  return (
    <div className="notice" role="note">
      <p>{t('Some documents are in {languages}; {model} knows English alone, so they are found by their words only. {offer} ({size} GB) finds them by meaning too.', { languages: foreign.map((x) => t(x)).join(', '), model: used.name, offer: OFFERED, size: offer.size_gb })}</p>
      {pull?.state === 'running' ? <progress aria-label={t('Download of {name}', { name: OFFERED })} value={pull.total ? (pull.completed ?? 0) : undefined} max={pull.total || 1} />
        : here ? <button type="button" onClick={() => void use()}>{t('Use {name} for search', { name: OFFERED })}</button>
          : <button type="button" onClick={() => void fetch_()}>{t('Download {name}', { name: OFFERED })}</button>}
      {here && <p className="quiet">{t('Documents that are indexed already are found by meaning once they are sent again.')}</p>}
      {(error || pull?.error) && <p className="error" role="alert">{error || pull?.error}</p>}
    </div>
  );
}
