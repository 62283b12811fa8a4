import { useState } from 'react';
import { post, words, type Status } from './api';
import { language, t } from './i18n';

export interface Sample { at: number; memory: number | null; tokens: number | null; pid: number | null }
const MB = (bytes: number | null) => (bytes === null ? '–' : `${Math.round(bytes / 1048576)} MB`);
const time = new Intl.DateTimeFormat(language === 'zh' ? 'zh-Hans' : 'en', { timeStyle: 'medium' });

/** Tokens a second between samples of one process. */
function speeds(samples: Sample[]): number[] {
  return samples.slice(1).map((now, i) => {
    const before = samples[i]!;
    const seconds = (now.at - before.at) / 1000;
    if (now.tokens === null || before.tokens === null || now.pid !== before.pid || seconds <= 0) return 0;
    return Math.max(0, (now.tokens - before.tokens) / seconds);
  });
}

function Line({ values, label }: { values: number[]; label: string }) {
  const most = Math.max(...values, 1);
  const points = values.map((v, i) => `${(i / Math.max(values.length - 1, 1)) * 100},${28 - (v / most) * 26}`).join(' ');
  return <svg className="line" viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label={label}><polyline points={points} /></svg>;
}

export function Sidecar({ status, samples, say }: { status: Status | null; samples: Sample[]; say: (text: string) => void }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const restart = async () => {
    setBusy(true);
    setError('');
    say(t('Restarting the model process.'));
    try {
      const after = await post<{ phase: string; detail: string }>('sidecar/restart');
      say(t('The model process is {phase}.', { phase: t(after.phase) }));
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
  const rates = speeds(samples);
  const now = rates.at(-1) ?? 0;
  return (
    <section aria-labelledby="sidecar-title">
      <h2 id="sidecar-title">{t('Model process')}</h2>
      {s ? (
        <>
          <dl className="facts">
            <dt>{t('State')}</dt><dd>{t(s.phase)}{s.pid ? ` (pid ${s.pid})` : ''}</dd>
            <dt>{t('Model')}</dt><dd>{s.model ?? t('loaded at the first question')}</dd>
            <dt>{t('Memory')}</dt><dd>{MB(s.memory_bytes)}{s.memory_bytes !== null && s.listener_bytes !== null && s.memory_bytes > s.listener_bytes && ` (${t('engine {engine}, listener {listener}', { engine: MB(s.memory_bytes - s.listener_bytes), listener: MB(s.listener_bytes) })})`}; {t('service {size}', { size: MB(status.host.memory_bytes) })}</dd>
            <dt>{t('Requests')}</dt><dd>{t('{running} running, {waiting} waiting', { running: sum('running'), waiting: sum('waiting') })}</dd>
            <dt>{t('Speed')}</dt><dd>{t('{n} tokens a second', { n: now.toFixed(now < 10 ? 1 : 0) })}</dd>
          </dl>
          {samples.length > 1 && (
            <div className="lines">
              <figure><Line values={rates} label={t('Tokens a second, the last minutes')} /><figcaption className="quiet">{t('tokens a second')}</figcaption></figure>
              <figure><Line values={samples.map((x) => x.memory ?? 0)} label={t('Memory, the last minutes')} /><figcaption className="quiet">{t('memory')}</figcaption></figure>
            </div>
          )}
        </>
      ) : <p className="error">{t('The service does not answer. It is asked again every two seconds.')}</p>}
      {s?.phase === 'failed' && <p className="error">{s.detail}</p>}
      {error && <p className="error" role="alert">{error}</p>}
      <button type="button" onClick={() => void restart()} disabled={busy || !s?.wanted}>{busy ? t('Restarting…') : t('Restart')}</button>
      {s && s.events.length > 0 && (
        <details>
          <summary>{t('What happened to it')}</summary>
          <ul className="plain">
            {s.events.slice().reverse().map((e, i) => <li key={i} className="quiet">{time.format(e.at * 1000)} {t(e.kind)}{e.pid ? ` (pid ${e.pid})` : ''}{e.detail ? `: ${e.detail}` : ''}</li>)}
          </ul>
        </details>
      )}
    </section>
  );
}
