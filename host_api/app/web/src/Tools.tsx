import { useState } from 'react';
import { call, get, words, type Mcp } from './api';
import { t } from './i18n';

/** Tools of MCP servers: asked for when the panel is opened, since that starts them. */
export function Tools({ say }: { say: (text: string) => void }) {
  const [found, setFound] = useState<Mcp>();
  const [error, setError] = useState('');
  const look = () => { setError(''); get<Mcp>('mcp').then(setFound, (e: unknown) => setError(words(e))); };
  const forget = (name: string) => { call('DELETE', `mcp/allowed/${encodeURI(name)}`).then(() => { say(t('{name} asks again.', { name })); look(); }, (e: unknown) => setError(words(e))); };
  return (
    <section aria-labelledby="tools-title">
      <h2 id="tools-title">{t('Tools')}</h2>
      <details onToggle={(e) => { if (e.currentTarget.open) look(); }}>
        <summary>{t('MCP servers')}</summary>
        {error && <p className="error" role="alert">{error}</p>}
        {found?.error && <p className="error">{found.error}</p>}
        {found && found.servers.length === 0 && <p className="quiet">{t('None. They are named in {file}.', { file: found.file })}</p>}
        <ul className="plain">
          {found?.servers.map((s) => (
            <li key={s.name}>
              <div className="row"><strong className="grow">{s.name}</strong><span className={`badge ${s.state === 'running' ? 'done' : s.state}`}>{t(s.state)}</span></div>
              {s.error && s.state !== 'running' && <p className="error">{s.error}</p>}
              <p className="quiet">{s.tools.map((x) => x.name).join(', ')}</p>
            </li>
          ))}
        </ul>
        {found && found.allowed.length > 0 && (
          <ul className="plain" aria-label={t('Always allowed')}>
            {found.allowed.map((name) => <li key={name} className="row"><span className="grow">{name}</span><button type="button" aria-label={t('Ask again before {name} runs', { name })} onClick={() => forget(name)}>{t('Ask again')}</button></li>)}
          </ul>
        )}
      </details>
    </section>
  );
}
