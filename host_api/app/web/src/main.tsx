import { createRoot } from 'react-dom/client';
import { keyFromAddress } from './api';
import { App } from './App';
import './page.css';

keyFromAddress();
createRoot(document.getElementById('root') as HTMLElement).render(<App />);
