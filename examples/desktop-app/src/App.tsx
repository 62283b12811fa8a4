import { useChat } from '@ai-sdk/react';
import { invoke } from '@tauri-apps/api/core';
import { getCurrentWebview } from '@tauri-apps/api/webview';
import type { FileUIPart } from 'ai';
import type { Phase } from 'mlx-sidecar';
import { useCallback, useEffect, useMemo, useRef, useState } from 'react';
import { Composer } from './Composer';
import { readDropped, toParts } from './images';
import { Messages } from './Messages';
import { Models } from './Models';
import { explain, SidecarTransport, type ChatMessage } from './transport';
import { useSidecar } from './useSidecar';

const WORDS: Record<Phase, string> = {
  stopped: 'Stopped',
  starting: 'Starting…',
  running: 'Ready',
  restarting: 'Restarting…',
  failed: 'Failed',
};

export function App() {
  const sidecar = useSidecar();
  const { snapshot, models, problem, setProblem } = sidecar;
  const [picked, setPicked] = useState('');
  const [images, setImages] = useState<FileUIPart[]>([]);
  const [choosing, setChoosing] = useState(false);
  const [dragging, setDragging] = useState(false);

  const model = models.some((m) => m.id === picked) ? picked : (models.find((m) => m.loaded) ?? models[0])?.id;
  const current = useRef('');
  current.current = model ?? 'starter';
  const transport = useMemo(() => new SidecarTransport(() => current.current), []);
  const chat = useChat<ChatMessage>({ transport });
  const busy = chat.status === 'submitted' || chat.status === 'streaming';

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key.toLowerCase() === 'q' && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        void invoke('quit');
      }
    };
    window.addEventListener('keydown', onKey);
    return () => window.removeEventListener('keydown', onKey);
  }, []);

  const addFiles = useCallback(
    async (files: Iterable<File>) => {
      const { parts, refused } = await toParts(files);
      setImages((old) => [...old, ...parts]);
      setProblem(refused.length ? `Not an image that can be read: ${refused.join(', ')}. Use PNG, JPEG, WebP, GIF or BMP.` : '');
    },
    [setProblem],
  );

  // Tauri's event, not the page's: WebKitGTK shows a page no files of a drop.
  useEffect(() => {
    const off = getCurrentWebview().onDragDropEvent(({ payload }) => {
      setDragging(payload.type === 'enter' || payload.type === 'over');
      if (payload.type === 'drop') void readDropped(payload.paths).then(addFiles);
    });
    return () => void off.then((undo) => undo());
  }, [addFiles]);

  return (
    <div className={dragging ? 'app dragging' : 'app'}>
      <header className="bar">
        <h1>Private chat</h1>
        <div className={`pill ${snapshot.phase}`} role="status" data-testid="phase">
          <span className="dot" aria-hidden="true" />
          <span>Sidecar: {WORDS[snapshot.phase]}</span>
          {snapshot.sidecar && (
            <small data-testid="sidecar">
              {snapshot.sidecar.how}, pid {snapshot.sidecar.pid}
            </small>
          )}
        </div>
        <span className="space" />
        <button type="button" onClick={() => setChoosing(true)} disabled={snapshot.phase !== 'running'}>
          {model ? `Model: ${model}` : 'Models'}
        </button>
        <button
          type="button"
          onClick={() => void sidecar.again()}
          disabled={snapshot.phase === 'starting' || snapshot.phase === 'restarting'}
        >
          {snapshot.phase === 'stopped' || snapshot.phase === 'failed' ? 'Start' : 'Restart'}
        </button>
      </header>

      {(snapshot.phase === 'failed' || snapshot.phase === 'restarting') && (
        <p role="alert" className="problem" data-testid="trouble">
          {snapshot.detail || 'The sidecar is not there.'}
        </p>
      )}
      {problem && (
        <p role="alert" className="problem">
          {problem}
          <button type="button" className="icon" aria-label="Dismiss" onClick={() => setProblem('')}>
            ×
          </button>
        </p>
      )}

      <Messages
        messages={chat.messages}
        busy={busy}
        waiting={chat.status === 'submitted'}
        error={chat.error ? explain(chat.error) : ''}
        canRetry={snapshot.phase === 'running'}
        onRetry={() => void chat.regenerate()}
      />
      <Composer
        busy={busy}
        ready={snapshot.phase === 'running' && model !== undefined}
        images={images}
        setImages={setImages}
        onFiles={(files) => void addFiles(files)}
        onSend={(text, files) => void chat.sendMessage({ text, files })}
        onStop={() => void chat.stop()}
      />
      <details className="log">
        <summary>Sidecar log</summary>
        <pre tabIndex={0}>{sidecar.log.join('\n') || 'Nothing yet.'}</pre>
      </details>

      {choosing && (
        <Models
          models={models}
          chosen={model ?? ''}
          onChoose={setPicked}
          onPulled={sidecar.refreshModels}
          onClose={() => setChoosing(false)}
        />
      )}
    </div>
  );
}
