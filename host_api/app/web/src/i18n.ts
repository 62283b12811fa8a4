// English is written where it is shown; other languages are looked up by it.
import { zh } from './zh';

export type Language = 'en' | 'zh';
const KEY = 'mlx-host-language';

function wanted(): Language {
  const kept = localStorage.getItem(KEY);
  if (kept === 'en' || kept === 'zh') return kept;
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}

export const language: Language = wanted();
document.documentElement.lang = language === 'zh' ? 'zh-Hans' : 'en';

export function setLanguage(to: Language): void {
  localStorage.setItem(KEY, to);
  location.reload();
}

/** The words in the language of the page; `{name}` stands for what is given. */
export function t(english: string, given: Record<string, string | number> = {}): string {
  const words = language === 'zh' ? (zh[english] ?? english) : english;
  return words.replace(/\{(\w+)\}/g, (whole, name: string) => String(given[name] ?? whole));
}
