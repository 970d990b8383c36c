'use strict';
const $ = (id) => document.getElementById(id);
function element(tag, name = '', text = '') {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

// ---- access: what the page shows to be let in ---------------------------------------------------------------------
const KEPT_AS = 'fanwire.token';
let token = null;
try {
  // Behind the `#`, which is not sent with the page's address, and does not stay there for others to see.
  token = new URLSearchParams(location.hash.slice(1)).get('token') || sessionStorage.getItem(KEPT_AS);
  if (location.hash.includes('token=')) history.replaceState(null, '', location.pathname + location.search);
  if (token) sessionStorage.setItem(KEPT_AS, token);
} catch { /* A browser that keeps nothing: then it is shown again next time. */ }

const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

/** Asks for a ticket; none where the token is not good, or the server not there. */
async function ticket() {
  try {
    const answer = await fetch('/ticket', { method: 'POST', headers: authorization() });
    if (answer.ok) return (await answer.json()).ticket;
    if (answer.status === 401) askForToken((await answer.json()).error);
  } catch { /* The state of the connection says it. */ }
  return null;
}

/** Whether the server would let this page in; asks for a token where not. */
async function isLetIn() {
  try {
    const answer = await fetch('/ticket', { method: 'POST', headers: authorization() });
    if (answer.status !== 401) return true;
    askForToken((await answer.json()).error);
    return false;
  } catch {
    return true;
  }
}

function askForToken(why) {
  $('login').hidden = false;
  $('login-error').textContent = token ? why : '';
  stand('not let in');
}

$('login').addEventListener('submit', (submit) => {
  submit.preventDefault();
  token = $('token').value.trim() || null;
  try {
    if (token) sessionStorage.setItem(KEPT_AS, token); else sessionStorage.removeItem(KEPT_AS);
  } catch { /* As above. */ }
  $('token').value = '';
  $('login').hidden = true;
  delay = 0;
  connect();
  look();
});
