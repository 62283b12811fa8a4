import { memo, useRef, useState, type ComponentProps } from 'react';
import ReactMarkdown from 'react-markdown';
import rehypeHighlight from 'rehype-highlight';
import rehypeKatex from 'rehype-katex';
import remarkGfm from 'remark-gfm';
import remarkMath from 'remark-math';
import { t } from './i18n';

/** A block of code that can be copied. */
function Code(props: ComponentProps<'pre'>) {
  const block = useRef<HTMLPreElement>(null);
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(block.current?.innerText ?? '');
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <div className="code">
      <button type="button" className="copy" onClick={() => void copy()}>{copied ? t('Copied') : t('Copy')}</button>
      <pre ref={block} tabIndex={0} role="region" aria-label={t('Code')}>{props.children}</pre>
    </div>
  );
}

// Pictures a model names are not fetched: the address alone would tell somebody else what was asked.
const parts = {
  pre: Code,
  img: ({ alt, src }: { alt?: string; src?: string | Blob }) => <span className="quiet">[{alt || String(src)}]</span>,
  input: ({ checked }: { checked?: boolean }) => <input type="checkbox" disabled checked={checked === true} aria-label={checked ? t('done') : t('to do')} readOnly />,
  a: ({ children, href }: { children?: React.ReactNode; href?: string }) => <a href={href} target="_blank" rel="noreferrer noopener">{children}</a>,
  table: ({ children }: { children?: React.ReactNode }) => <div className="scroll" tabIndex={0} role="region" aria-label={t('Table')}><table>{children}</table></div>,
};

/** What a model wrote. HTML in it is shown as text, never run; formulas are MathML, which needs no styles of its own. */
export const Markdown = memo(function Markdown({ text }: { text: string }) {
  return (
    <div className="markdown">
      <ReactMarkdown
        remarkPlugins={[remarkGfm, remarkMath]}
        rehypePlugins={[[rehypeKatex, { output: 'mathml', throwOnError: false }], [rehypeHighlight, { detect: false }]]}
        components={parts}
      >{text}</ReactMarkdown>
    </div>
  );
});
