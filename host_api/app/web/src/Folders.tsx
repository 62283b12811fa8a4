import { useState } from 'react';
import { call, post, words, type Folder } from './api';
import { t } from './i18n';

/** Folders whose documents are kept findable: named by their path, since a page can't learn it from a picker. */
export function Folders({ folders, say }: { folders: Folder[]; say: (text: string) => void }) {
  const [path, setPath] = useState('');
  const [error, setError] = useState('');
  const [busy, setBusy] = useState(false);
  const tried = async (work: () => Promise<unknown>) => {
    setError('');
    setBusy(true);
    try {
      await work();
    } catch (e) {
      setError(words(e));
    } finally {
      setBusy(false);
    }
  };
  const add = () => tried(async () => {
    await post('folders', { path: path.trim() });
    say(t('{name} is watched.', { name: path.trim() }));
    setPath('');
  });
  const remove = (folder: Folder) => {
    if (!window.confirm(t('Stop watching {name}? Its documents are no longer found; the files stay.', { name: folder.path }))) return;
    void tried(async () => { await call('DELETE', `folders/${folder.id}`); say(t('{name} is not watched any more.', { name: folder.path })); });
  };
  return (
    <details open={folders.length > 0 || undefined}>
      <summary>{t('Folders ({n})', { n: folders.length })}</summary>
      <p className="quiet">{t('Documents in a folder are indexed, and followed when they change, move or go.')}</p>
      <ul className="plain" aria-label={t('Folders')}>
        {folders.map((f) => {
          const refused = Object.entries(f.refused);
          return (
            <li key={f.id}>
              <div className="row">
                <span className="grow path" title={f.path}>{f.path}</span>
                <button type="button" aria-label={t('Remove {name}', { name: f.path })} onClick={() => remove(f)}>{t('Remove')}</button>
              </div>
              <div className="quiet"><span className={`badge ${f.state === 'watched' ? 'done' : f.state.startsWith('failing') || f.state === 'missing' ? 'failed' : 'running'}`}>{t(f.state)}</span> {f.files === 1 ? t('1 document') : t('{n} documents', { n: f.files })}</div>
              {refused.length > 0 && (
                <details className="aside">
                  <summary>{refused.length === 1 ? t('1 can’t be read') : t('{n} can’t be read', { n: refused.length })}</summary>
                  <ul className="plain">{refused.map(([name, why]) => <li key={name} className="quiet"><strong>{name}</strong>: {why}</li>)}</ul>
                </details>
              )}
            </li>
          );
        })}
      </ul>
      {error && <p className="error" role="alert">{error}</p>}
      <form className="row" onSubmit={(e) => { e.preventDefault(); void add(); }}>
        <input aria-label={t('Path of a folder')} placeholder={t('/whole/path/of/a/folder')} className="grow" value={path} maxLength={4096} onChange={(e) => setPath(e.target.value)} />
        <button type="submit" disabled={busy || !path.trim()}>{t('Watch')}</button>
      </form>
    </details>
  );
}
