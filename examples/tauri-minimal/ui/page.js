const { invoke } = window.__TAURI__.core;
const answer = document.getElementById('answer');

document.getElementById('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  answer.textContent = '…';
  try {
    const { url, token } = await invoke('plugin:mlx-sidecar|ensure'); // started, or attached to
    const reply = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      body: JSON.stringify({
        model: 'starter',
        temperature: 0,
        messages: [{ role: 'user', content: document.getElementById('question').value }],
      }),
    });
    const body = await reply.json();
    answer.textContent = reply.ok ? body.choices[0].message.content : body.error.message;
  } catch (error) {
    answer.textContent = error.message; // the plugin's messages are made to be shown
  }
});
