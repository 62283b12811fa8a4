import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// Relative addresses, so that a product can mount the page under a path of its own. Fixed names, so that two builds
// of the same sources are the same files.
export default defineConfig({
  plugins: [react()],
  base: './',
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: { entryFileNames: 'assets/page.js', chunkFileNames: 'assets/[name].js', assetFileNames: 'assets/[name][extname]' },
    },
  },
});
