'use strict';
// The page's state is a history of items; every change asks each run for its recommendations again.

const byId = (id) => document.getElementById(id);
const TOP = 10, WAIT_MS = 150; // items shown; pause in typing after which is searched
let runs = [], history = [], asked = 0, searched = 0, timer = null;

/** Ask the server; a mistake becomes an Error with the server's line. */
async function ask(path, body) {
  const settings = body === undefined ? {} :
    {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)};
  let answer;
  try {
    answer = await fetch(path, settings);
  } catch {
    throw new Error('the server does not answer');
  }
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

/** Make an element with text, never with HTML: titles are other people's words. */
function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A line with an item: a button that does what `act` says. */
function line(item, place, act, verb) {
  const row = make('li'), button = make('button', 'item'), name = make('span', 'name', item.title || item.item_id);
  button.type = 'button';
  button.dataset.item = item.item_id;
  button.setAttribute('aria-label', `${verb}: ${item.title || item.item_id}${item.cold ? ' (cold)' : ''}`);
  if (item.cold) name.append(make('span', 'cold', 'cold'));
  if (item.title) name.append(make('small', '', item.item_id));
  if (place) button.append(make('span', 'place', place));
  button.append(name);
  if (item.score !== undefined && verb !== 'Remove') button.append(make('span', 'score', item.score.toFixed(4)));
  button.addEventListener('click', () => act(item));
  row.append(button);
  return row;
}

function say(text) {
  byId('message').textContent = text;
}

function add(item) {
  history.push(item);
  drawHistory();
  recommend();
}

function remove(place) {
  history.splice(place, 1);
  drawHistory();
  recommend();
  (byId('history').querySelectorAll('button')[Math.min(place, history.length - 1)] || byId('query')).focus();
}

function drawHistory() {
  byId('history').replaceChildren(...history.map((item, i) => line(item, i + 1, () => remove(i), 'Remove')));
  byId('clear').disabled = history.length === 0;
  byId('history-hint').textContent = history.length ? 'Oldest first; click an item to remove it.' :
    'Empty: the most popular items are recommended. Add items from the search.';
}

/** Draw one run's recommendations, or what is wrong with them. */
function drawRun(run, user, error) {
  const part = make('section');
  part.dataset.run = run.run;
  part.append(make('h2', '', run.name), make('p', 'soft', `${run.model}, ${run.items.toLocaleString('en')} items` +
    (run.encoder ? `, ${run.encoder}` : '')));
  if (error) {
    part.append(make('p', 'soft error', error));
    return part;
  }
  if (user.source === 'popularity') part.append(make('p', 'soft', 'No history: the most popular items.'));
  if (user.left_out > 0) part.append(make('p', 'soft', `Items of the history that this run lacks: ${user.left_out}`));
  const list = make('ol');
  list.append(...user.items.map((item, i) => line(item, i + 1, add, 'Add to the history')));
  part.append(list);
  return part;
}

async function recommend() {
  const number = ++asked, now = Date.now();
  const user = {user_id: 'visitor', item_id_list: history.map((item) => item.item_id)};
  const times = {...user, timestamp_list: history.map((_, i) => now - 60000 * (history.length - i))};
  const where = byId('where').value.trim();
  const body = {users: [times], top: TOP, exclude_history: byId('exclude').checked, skip_unknown: true};
  if (where) body.where = where;
  const parts = await Promise.all(runs.map(async (run) => {
    try {
      const answer = await ask('/recommend', {...body, run: run.run});
      return drawRun(run, answer.users[0]);
    } catch (error) {
      return drawRun(run, null, error.message);
    }
  }));
  if (number === asked) byId('results').replaceChildren(...parts); // a later answer may have come before
}

async function search() {
  const number = ++searched, query = byId('query').value.trim();
  if (!query) {
    byId('found').replaceChildren();
    return;
  }
  try {
    const answer = await ask(`/search?top=8&q=${encodeURIComponent(query)}`);
    if (number !== searched) return;
    const items = answer.items.map(({item_id, title, cold}) => ({item_id, title, cold}));
    byId('found').replaceChildren(...items.map((item) => line(item, '+', add, 'Add to the history')));
    if (!items.length) byId('found').replaceChildren(make('li', 'soft', 'No item holds these words.'));
    say('');
  } catch (error) {
    say(error.message);
  }
}

async function addNew(event) {
  event.preventDefault();
  const title = byId('title').value.trim(), text = byId('text').value.trim();
  const item = {item_id: `new-${Date.now().toString(36)}`, title};
  if (text) item.description = text;
  try {
    await ask('/items', {items: [item]});
    event.target.reset();
    await start();
    add({item_id: item.item_id, title, cold: true});
    say('');
  } catch (error) {
    say(error.message);
  }
}

async function start() {
  const health = await ask('/health');
  runs = health.runs;
  byId('runs').textContent = runs.map((run) => `${run.name}: ${run.model} on ${run.dataset}`).join('  ·  ');
  byId('columns').textContent = `columns: ${runs[0].columns.join(', ')}`;
}

byId('search').addEventListener('submit', (event) => {
  event.preventDefault();
  const first = byId('found').querySelector('button');
  if (first) first.click();
});
byId('query').addEventListener('input', () => {
  clearTimeout(timer);
  timer = setTimeout(search, WAIT_MS);
});
byId('new').addEventListener('submit', addNew);
byId('filter').addEventListener('submit', (event) => {
  event.preventDefault();
  recommend();
});
byId('where').addEventListener('change', recommend);
byId('exclude').addEventListener('change', recommend);
byId('clear').addEventListener('click', () => {
  history = [];
  drawHistory();
  recommend();
});
document.addEventListener('keydown', (event) => {
  const typing = /^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.key === '/' && !typing) {
    event.preventDefault();
    byId('query').focus();
  }
});
start().then(recommend).catch((error) => say(error.message));
