import type { FileUIPart } from 'ai';
import { useEffect, useRef, useState, type ClipboardEvent, type KeyboardEvent } from 'react';
import { ACCEPTED, readClipboard } from './images';

interface Props {
  busy: boolean;
  ready: boolean;
  images: FileUIPart[];
  setImages: (change: (old: FileUIPart[]) => FileUIPart[]) => void;
  onFiles: (files: Iterable<File>) => void;
  onSend: (text: string, files: FileUIPart[]) => void;
  onStop: () => void;
}

/** The line at the bottom: text, images, send or stop. */
export function Composer({ busy, ready, images, setImages, onFiles, onSend, onStop }: Props) {
  const [text, setText] = useState('');
  const picker = useRef<HTMLInputElement>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const can = ready && !busy && (text.trim() !== '' || images.length > 0);

  useEffect(() => field.current?.focus(), []);

  const send = () => {
    if (!can) return;
    onSend(text.trim() || 'What is in this picture?', images);
    setText('');
    setImages(() => []);
    field.current?.focus();
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      send();
    }
  };
  const onPaste = async (event: ClipboardEvent) => {
    const { files, types } = event.clipboardData;
    if (files.length > 0) {
      event.preventDefault();
      onFiles([...files]);
    } else if (!types.includes('text/plain')) {
      onFiles(await readClipboard());
    }
  };

  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {images.length > 0 && (
        <ul className="attached" aria-label="Images to send">
          {images.map((image, i) => (
            <li key={i}>
              <img src={image.url} alt={image.filename || `image ${i + 1}`} />
              <button
                type="button"
                aria-label={`Remove ${image.filename || `image ${i + 1}`}`}
                onClick={() => setImages((old) => old.filter((_, at) => at !== i))}
              >
                ×
              </button>
            </li>
          ))}
        </ul>
      )}
      <div className="line">
        <input
          ref={picker}
          type="file"
          accept={ACCEPTED}
          multiple
          hidden
          aria-label="Images"
          data-testid="picker"
          onChange={async (event) => {
            const files = [...(event.target.files ?? [])];
            event.target.value = '';
            onFiles(files);
          }}
        />
        <button type="button" className="icon" aria-label="Add images" title="Add images" onClick={() => picker.current?.click()}>
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <path d="M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01" />
          </svg>
        </button>
        <textarea
          ref={field}
          rows={1}
          value={text}
          aria-label="Message"
          placeholder="Ask something, or drop a picture"
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKey}
          onPaste={onPaste}
        />
        {busy ? (
          <button type="button" className="primary" onClick={onStop}>
            Stop
          </button>
        ) : (
          <button type="submit" className="primary" disabled={!can}>
            Send
          </button>
        )}
      </div>
    </form>
  );
}

