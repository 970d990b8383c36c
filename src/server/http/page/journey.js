// ---- views ---------------------------------------------------------------------------------------------------------
function show(view) {
  for (const tab of $('views').children) {
    const own = tab.dataset.view === view;
    tab.setAttribute('aria-selected', String(own));
    tab.tabIndex = own ? 0 : -1;
    $(`view-${tab.dataset.view}`).hidden = !own;
  }
  if (view === 'server') look();
}
for (const tab of $('views').children) {
  tab.onclick = () => show(tab.dataset.view);
  tab.onkeydown = (key) => {
    if (key.key !== 'ArrowLeft' && key.key !== 'ArrowRight') return;
    const other = tab.nextElementSibling ?? tab.previousElementSibling;
    show(other.dataset.view);
    other.focus();
  };
}

// ---- an event's journey --------------------------------------------------------------------------------------------
function why(one, title) {
  const box = element('div', 'why');
  const head = document.createElement('p');
  head.append(element('span', one.wanted ? 'yes' : 'no', one.wanted ? 'wanted' : 'not wanted'), element('code', '', one.filter || 'everything'), element('span', '', title));
  const list = document.createElement('ul');
  for (const { condition, holds, found } of one.conditions) {
    const row = document.createElement('li');
    row.append(element('span', holds ? 'yes' : 'no', holds ? '✓' : '✗'), element('code', '', condition), `found: ${found ?? 'nothing'}`);
    list.append(row);
  }
  box.append(head, list);
  return box;
}

function step(title, text) {
  const row = document.createElement('li');
  row.append(element('b', '', title), element('span', '', text));
  return row;
}

let journeyOf = null;
async function openJourney(id, filter = '') {
  journeyOf = id;
  $('try-answer').replaceChildren();
  if (!$('journey').open) $('journey').showModal();
  const params = new URLSearchParams({ event_id: id });
  if (filter) params.set('filter', filter);
  if (!filter) {
    $('journey-title').textContent = 'Journey';
    $('journey-steps').replaceChildren(step('Looking', id));
    $('journey-follow').replaceChildren();
    $('journey-interests').replaceChildren();
  }
  let journey;
  try {
    journey = await api(`/api/explain?${params}`);
  } catch (error) {
    const said = element('div', 'why no', error.message);
    if (filter) return $('try-answer').replaceChildren(said);
    $('journey-title').textContent = id;
    $('journey-steps').replaceChildren();
    return $('journey-interests').replaceChildren(said);
  }
  // Another event was requested meanwhile.
  if (journeyOf !== id) return;
  const { event } = journey;
  const interests = journey.interests.sort((a, b) => b.wanted - a.wanted);
  $('journey-title').textContent = event.event_type;
  const wanting = interests.filter((one) => one.wanted);
  const spokenIn = [...new Set(wanting.map(spoken))];
  const more = interests.length >= INTERESTS_MAX ? `, of the ${interests.length} largest of ${count(journey.feeds)} feeds` : '';
  $('journey-steps').replaceChildren(
    step('Published', `${event.timestamp}${event.source ? ` by ${event.source}` : ''}`),
    step('Stored', `shard ${journey.shard}, sequence ${count(journey.sequence)}, ${journey.behind_newest === 0 ? 'the newest there' : `${count(journey.behind_newest)} came after it`}; id ${journey.event_id}`),
    step('Matched', `${wanting.length} of ${interests.length} interests want it now${more}`),
    step('Encoded', spokenIn.length ? `once for each encoding: ${spokenIn.join('; ')}` : 'for no client'),
    step('Delivered', `to ${count(journey.clients)} ${journey.clients === 1 ? 'client' : 'clients'} that ${journey.clients === 1 ? 'wants' : 'want'} it now`),
  );
  $('journey-follow').replaceChildren(...chips(event).childNodes);
  if (interests.length === 0) $('journey-interests').replaceChildren(element('p', 'none', 'No client is known to want anything: interests are reported once a second.'));
  else $('journey-interests').replaceChildren(...interests.flatMap((one) => {
    const clients = `${count(one.members)} ${one.members === 1 ? 'client' : 'clients'}, ${spoken(one)}`;
    return one.filters.map((filter) => why(filter, clients));
  }));
  if (journey.filter) $('try-answer').replaceChildren(why(journey.filter, 'your filter'));
}
$('journey-close').onclick = () => $('journey').close();
$('journey').addEventListener('close', draw);
$('journey').addEventListener('click', ({ target, clientX, clientY }) => {
  // A click outside of the dialog is a click on its backdrop.
  const { left, right, top, bottom } = $('journey').getBoundingClientRect();
  if (target === $('journey') && (clientX < left || clientX > right || clientY < top || clientY > bottom)) $('journey').close();
});
$('try').addEventListener('submit', (submit) => { submit.preventDefault(); openJourney(journeyOf, $('try-filter').value.trim()); });
$('explain').addEventListener('submit', (submit) => { submit.preventDefault(); if ($('explain-id').value.trim()) openJourney($('explain-id').value.trim()); });

showAccess();
connect();
look();
