'use strict';
const $ = (id) => document.getElementById(id);
function element(tag, name = '', text = '') {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.textContent = text;
  return node;
}
function button(text, name = '') {
  const node = element('button', name, text);
  node.type = 'button';
  return node;
}

// ---- access: the token that the page shows to the server -----------------------------------------------------------
const KEPT_AS = 'fanwire.token';
let token = null;
try {
  // Taken from the part after `#`, which is not sent with the page's address, and removed from the address bar.
  token = new URLSearchParams(location.hash.slice(1)).get('token') || sessionStorage.getItem(KEPT_AS);
  if (location.hash.includes('token=')) history.replaceState(null, '', location.pathname + location.search);
  keepToken();
} catch { /* A browser without storage asks for the token again next time. */ }

function keepToken() {
  try {
    if (token) sessionStorage.setItem(KEPT_AS, token); else sessionStorage.removeItem(KEPT_AS);
  } catch { /* As above. */ }
}

const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

/** Returns the claims of a JWT, and null for an API key. */
function claims() {
  try {
    const part = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
  } catch {
    return null;
  }
}

/** Asks for a ticket. Returns null if the token is refused or the server is away. */
async function ticket() {
  const shown = token;
  try {
    const answer = await fetch('/ticket', { method: 'POST', headers: authorization() });
    const body = await answer.json();
    if (answer.ok) return body.ticket;
    if (answer.status === 401 && token === shown) askForToken(body.error);
  } catch { /* The connection's state shows it. */ }
  return null;
}

/** Returns whether the server would let this page in, and asks for a token if not. A refusal of an earlier token asks for none. */
async function isLetIn() {
  const shown = token;
  try {
    const answer = await fetch('/ticket', { method: 'POST', headers: authorization() });
    if (answer.status !== 401) return true;
    const { error } = await answer.json();
    if (token === shown) askForToken(error);
    return false;
  } catch {
    return true;
  }
}

/** Shows the sign-in form instead of the views. `why` is shown if a token was refused. */
function askForToken(why) {
  const wasOut = !$('login').hidden;
  $('login').hidden = false;
  document.body.classList.add('out');
  $('login-error').textContent = token ? why : '';
  $('token').setAttribute('aria-invalid', String(Boolean(token)));
  if (!wasOut) $('token').focus();
  stand('not signed in');
}

/** Fits the page to the token: the account's control and the example. */
function showAccess() {
  $('login').hidden = true;
  document.body.classList.remove('out');
  const known = claims();
  $('sign-out').hidden = !token;
  $('sign-out').title = known?.sub ? `Signed in as ${known.sub}` : 'Forget the token';
  showExample(known);
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Writes the command that publishes an event, with the token if one is needed. Only the style cuts the token, so a copy has all of it. */
function showExample(known) {
  const parts = ['curl '];
  if (token) {
    const secret = element('span', 'secret', token);
    secret.title = 'Your token: a copy of this command has all of it';
    parts.push("-H 'Authorization: Bearer ", secret, "' ");
  }
  parts.push(`-d ${quoted('{"type":"hello.world","payload":{"n":1}}')} ${location.origin}/publish`);
  $('example').replaceChildren(...parts);
  const mayNot = Boolean(known) && !known.publish;
  $('example-note').hidden = !mayNot;
  $('example-note').textContent = mayNot ? 'Your token does not have the right to publish: make one with --publish.' : '';
}

/** Copies text, and says so on the button. */
async function copy(text, from) {
  const name = from.textContent;
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = 'Copied';
  } catch {
    // Without a secure context there is no clipboard.
    from.textContent = 'Select it';
  }
  setTimeout(() => (from.textContent = name), 1500);
}
$('copy-example').onclick = () => copy($('example').textContent, $('copy-example'));

$('login').addEventListener('submit', (submit) => {
  submit.preventDefault();
  token = $('token').value.trim() || null;
  keepToken();
  $('token').value = '';
  showAccess();
  delay = 0;
  connect();
  look();
});
$('sign-out').onclick = () => {
  token = null;
  keepToken();
  disconnect();
  clear();
  lastId = null;
  // A server without authentication lets the page in as it is.
  wantLink(true);
  showAccess();
  forgetServer();
  isLetIn().then((isIn) => isIn && connect());
};

