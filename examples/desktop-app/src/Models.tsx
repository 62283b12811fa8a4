import { cancelPull, isSidecarError, onDownload, pull, type Download } from 'mlx-sidecar';
import { useEffect, useRef, useState } from 'react';
import type { Model } from './useSidecar';

interface Props {
  models: Model[];
  chosen: string;
  onChoose: (id: string) => void;
  onPulled: () => void;
  onClose: () => void;
}

const ENDED = ['done', 'failed', 'cancelled'];

/** The dialogue in which a model is chosen or fetched. */
export function Models({ models, chosen, onChoose, onPulled, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [name, setName] = useState('');
  const [downloads, setDownloads] = useState<Record<string, Download>>({});
  const [problem, setProblem] = useState('');

  useEffect(() => {
    dialog.current?.showModal();
    const off = onDownload((download) => {
      setDownloads((old) => ({ ...old, [download.model]: download }));
      if (download.status === 'done') onPulled();
    });
    return () => void off.then((undo) => undo());
  }, [onPulled]);

  const fetchModel = async () => {
    const model = name.trim();
    if (!model) return;
    setProblem('');
    try {
      await pull(model);
      setName('');
    } catch (error) {
      if (isSidecarError(error) && error.code !== 'cancelled') setProblem(error.message);
    }
  };

  return (
    <dialog ref={dialog} aria-labelledby="models-title" onClose={onClose}>
      <header>
        <h2 id="models-title">Models</h2>
        <button type="button" aria-label="Close" className="icon" onClick={() => dialog.current?.close()}>
          ×
        </button>
      </header>
      <fieldset>
        <legend>On this machine</legend>
        {models.length === 0 && <p className="quiet">None yet. Fetch one below.</p>}
        {models.map((model) => (
          <label key={model.id} className="choice">
            <input type="radio" name="model" autoFocus={model.id === chosen} checked={model.id === chosen} onChange={() => onChoose(model.id)} />
            <span>{model.id}</span>
            <small>{[...(model.capabilities ?? []), model.loaded ? 'in memory' : ''].filter(Boolean).join(' · ')}</small>
          </label>
        ))}
      </fieldset>
      <form
        className="line"
        onSubmit={(event) => {
          event.preventDefault();
          void fetchModel();
        }}
      >
        <input
          value={name}
          onChange={(event) => setName(event.target.value)}
          aria-label="Model to fetch"
          placeholder="qwen3-vl-4b, or a hub id"
          list="known-models"
          spellCheck={false}
        />
        <datalist id="known-models">
          <option value="qwen3-vl-4b" />
        </datalist>
        <button type="submit" className="primary" disabled={name.trim() === ''}>
          Fetch
        </button>
      </form>
      {problem && (
        <p role="alert" className="problem">
          {problem}
        </p>
      )}
      <ul className="downloads" aria-label="Downloads">
        {Object.values(downloads)
          .filter((d) => d.status !== 'failed')
          .map((d) => (
            <li key={d.model}>
              <span>
                {d.model}: {d.status}
                {d.file && !ENDED.includes(d.status) ? ` ${d.file}` : ''}
              </span>
              {!ENDED.includes(d.status) && (
                <>
                  <progress
                    aria-label={`Download of ${d.model}`}
                    max={d.total ?? undefined}
                    value={d.total ? (d.completed ?? 0) : undefined}
                  />
                  <small>{size(d)}</small>
                  <button type="button" onClick={() => void cancelPull(d.model)}>
                    Cancel
                  </button>
                </>
              )}
            </li>
          ))}
      </ul>
    </dialog>
  );
}

function size({ completed, total }: Download): string {
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
  return total ? `${mb(completed ?? 0)} of ${mb(total)}` : '';
}
