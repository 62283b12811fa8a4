import react from '@vitejs/plugin-react';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  plugins: [react()],
  clearScreen: false,
  resolve: {
    alias: {
      'mlx-sidecar': here('../../src-tauri-snippets/tauri-plugin-mlx-sidecar/guest-js/index.ts'),
      '@tauri-apps/api': here('./node_modules/@tauri-apps/api'),
    },
  },
  server: { port: 1420, strictPort: true, watch: { ignored: ['**/src-tauri/**'] } },
  build: { target: 'safari16', chunkSizeWarningLimit: 2000 },
});
