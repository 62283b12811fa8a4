import { convertFileSrc } from '@tauri-apps/api/core';
import type { FileUIPart } from 'ai';

/** What the sidecar reads. */
export const ACCEPTED = 'image/png,image/jpeg,image/webp,image/gif,image/bmp';

/** The images among `files` as parts of a message, and the names of what is none. */
export async function toParts(files: Iterable<File>): Promise<{ parts: FileUIPart[]; refused: string[] }> {
  const parts: FileUIPart[] = [];
  const refused: string[] = [];
  for (const file of files) {
    if (ACCEPTED.split(',').includes(file.type)) {
      parts.push({ type: 'file', mediaType: file.type, filename: file.name, url: await dataUrl(file) });
    } else {
      refused.push(file.name || 'the file');
    }
  }
  return { parts, refused };
}

/** Dropped files by their paths. Tauri lets the page read these and no others; what is no image isn't read. */
export function readDropped(paths: string[]): Promise<File[]> {
  return Promise.all(
    paths.map(async (path) => {
      const name = path.split(/[\\/]/).pop() || path;
      if (!/\.(png|jpe?g|webp|gif|bmp)$/i.test(name)) return new File([], name);
      const answer = await fetch(convertFileSrc(path)).catch(() => Response.error());
      const data = await answer.blob();
      return new File([data], name, { type: answer.ok ? data.type : '' });
    }),
  );
}

/** The images on the clipboard: in WebKitGTK a paste event has none, the clipboard's own interface does. */
export async function readClipboard(): Promise<File[]> {
  const files: File[] = [];
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((each) => ACCEPTED.split(',').includes(each));
      if (type) files.push(new File([await item.getType(type)], 'pasted picture', { type }));
    }
  } catch {
    // nothing there that a page may have
  }
  return files;
}

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error(`${file.name} can't be read`));
    reader.readAsDataURL(file);
  });
}
