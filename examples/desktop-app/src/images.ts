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

function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error(`${file.name} can't be read`));
    reader.readAsDataURL(file);
  });
}
