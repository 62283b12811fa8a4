import { useState } from 'react';
import { post, words, type Status } from './api';

const MB = (bytes: number | null) => (bytes === null ? '–' : `${Math.round(bytes / 1048576)} MB`);

export function Sidecar({ status, say }: { status: Status | null; say: (text: string) => void }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const restart = async () => {
    setBusy(true);
    setError('');
    say('Restarting the model process.');
    try {
      const after = await post<{ phase: string; detail: string }>('sidecar/restart');
      say(`The model process is ${after.phase}.`);
      if (after.phase === 'failed') setError(after.detail);
    } catch (e) {
      setError(words(e));
    } finally {
      setBusy(false);
    }
  };
  const s = status?.sidecar;
  const queue = s?.queue ? Object.values(s.queue).filter((q) => q && typeof q === 'object') : [];
  const sum = (name: 'running' | 'waiting') => queue.reduce((n, q) => n + (q[name] ?? 0), 0);
  return (
    <section aria-labelledby="sidecar-title">
      <h2 id="sidecar-title">Model process</h2>
      {s ? (
        <dl className="facts">
          <dt>State</dt><dd>{s.phase}{s.pid ? ` (pid ${s.pid})` : ''}</dd>
          <dt>Model</dt><dd>{s.model ?? 'loaded at the first question'}</dd>
          <dt>Memory</dt><dd>{MB(s.memory_bytes)} (service {MB(status.host.memory_bytes)})</dd>
          <dt>Requests</dt><dd>{sum('running')} running, {sum('waiting')} waiting</dd>
        </dl>
      ) : <p className="error">The service does not answer. It is asked again every two seconds.</p>}
      {s?.phase === 'failed' && <p className="error">{s.detail}</p>}
      {error && <p className="error" role="alert">{error}</p>}
      <button type="button" onClick={() => void restart()} disabled={busy || !s?.wanted}>{busy ? 'Restarting…' : 'Restart'}</button>
    </section>
  );
}
