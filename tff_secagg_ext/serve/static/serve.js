// SPDX-License-Identifier: Apache-2.0
// What makes the page live. Without it every page still shows what there was
// when it was loaded.
'use strict';

const byId = (id) => document.getElementById(id);
document.documentElement.dataset.scripts = '';

// Replaces an element by that of a new page, and leaves alone what a reader has
// done: what is open, what is chosen, and where the keyboard is.
function replace(element, next) {
  if (element.innerHTML === next.innerHTML) return;
  const key = (details) =>
    (details.closest('[id]') || {}).id + details.querySelector('summary').textContent;
  const open = new Set([...element.querySelectorAll('details[open]')].map(key));
  const chosen = new Set([...element.querySelectorAll('input:checked')].map((i) => i.value));
  const focused = [...element.querySelectorAll('a, input, summary, [tabindex]')].indexOf(
    document.activeElement);
  element.replaceChildren(...next.childNodes);
  for (const details of element.querySelectorAll('details')) {
    if (open.has(key(details))) details.open = true;
  }
  for (const input of element.querySelectorAll('input[type=checkbox]')) {
    input.checked = chosen.has(input.value);
  }
  if (focused >= 0) {
    const places = element.querySelectorAll('a, input, summary, [tabindex]');
    if (places[focused]) places[focused].focus({preventScroll: true});
  }
}

const parsed = (text) => new DOMParser().parseFromString(text, 'text/html');
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// The page anew, one at a time: what was asked for meanwhile is asked for after.
let loading = null;
let again = false;
async function reload() {
  if (loading) {
    again = true;
    return;
  }
  loading = true;
  try {
    const answer = await fetch(location.href, {cache: 'no-store'});
    if (answer.ok) {
      const next = parsed(await answer.text()).getElementById('live');
      const live = byId('live');
      replace(live, next);
      live.dataset.version = next.dataset.version || '';
      live.toggleAttribute('data-pending', next.hasAttribute('data-pending'));
    }
  } catch {
    // The server is gone: its events say so.
  }
  await wait(0.3);
  loading = null;
  if (again) {
    again = false;
    reload();
  }
}

function follow(address) {
  const state = byId('state');
  const source = new EventSource(address);
  source.onopen = () => {
    state.textContent = 'live';
    state.className = 'following';
  };
  source.onerror = () => {
    state.textContent = 'not connected; trying again';
    state.className = '';
  };
  source.onmessage = (event) => {
    const told = JSON.parse(event.data);
    const now = byId('now');
    if (now && told.now) replace(now, parsed(`<div id="now">${told.now}</div>`).getElementById('now'));
    if (told.version && told.version !== byId('live').dataset.version) reload();
  };
}

// Pages that are found out by workers are asked for until they are there.
async function untilThere() {
  while (byId('live') && byId('live').hasAttribute('data-pending')) {
    await wait(0.5);
    await reload();
  }
}

function choose() {
  const chosen = [...document.querySelectorAll('.pick input:checked')].map((i) => i.value);
  const link = byId('compare');
  link.parentElement.hidden = chosen.length < 2;
  link.href = '/compare?' + new URLSearchParams(chosen.map((name) => ['run', name]));
  link.textContent = `Compare these ${chosen.length} runs`;
  for (const input of document.querySelectorAll('.pick input')) {
    input.disabled = !input.checked && chosen.length >= 4;
  }
}

// Sliders and fields say the same; the answer follows when they are at rest.
function whatIf() {
  const answer = byId('answer');
  const fields = [...document.querySelectorAll('.slider [name]')];
  let asked = 0;
  let timer = 0;

  const asText = (value, step) => (step === '1' ? Math.round(value) : Number(value.toPrecision(3)));
  const toValue = (range) => {
    const low = Number(range.dataset.low);
    const high = Number(range.dataset.high);
    const share = Number(range.value) / Number(range.max);
    return range.dataset.scale === 'log'
      ? low * Math.exp(share * Math.log(high / low))
      : low + share * (high - low);
  };
  const toPlace = (range, value) => {
    const low = Number(range.dataset.low);
    const high = Number(range.dataset.high);
    const share = range.dataset.scale === 'log'
      ? Math.log(value / low) / Math.log(high / low)
      : (value - low) / (high - low);
    return Math.round(share * Number(range.max));
  };

  async function ask() {
    const mine = ++asked;
    if (fields.some((field) => !field.checkValidity())) return;
    const query = new URLSearchParams(fields.map((field) => [field.name, field.value]));
    answer.setAttribute('aria-busy', 'true');
    try {
      const found = await fetch('/what-if/answer?' + query);
      if (mine !== asked) return;
      if (found.status === 202) {
        await wait(0.5);
        if (mine === asked) ask();
        return;
      }
      const page = parsed(await found.text());
      const next = page.getElementById('main') || page.body;
      replace(answer, next);
      answer.removeAttribute('data-pending');
      history.replaceState(null, '', '/what-if?' + query);
      byId('state').textContent = '';
    } catch {
      byId('state').textContent = 'not connected';
    }
    if (mine === asked) answer.removeAttribute('aria-busy');
  }
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(ask, 120);
  };

  for (const range of document.querySelectorAll('.slider .range')) {
    const field = byId(range.dataset.for);
    range.addEventListener('input', () => {
      let value = asText(toValue(range), field.step);
      // A step of a small count may be less than one: move on by one.
      const before = Number(field.value);
      if (field.step === '1' && value === before && toPlace(range, value) !== Number(range.value)) {
        value += Number(range.value) > toPlace(range, value) ? 1 : -1;
        range.value = toPlace(range, value);
      }
      field.value = value;
      range.setAttribute('aria-valuetext', String(value));
      soon();
    });
    field.addEventListener('input', () => {
      range.value = toPlace(range, Number(field.value));
      range.setAttribute('aria-valuetext', field.value);
    });
  }
  for (const field of fields) field.addEventListener('input', soon);
  if (answer.hasAttribute('data-pending')) ask();
}

if (document.body.dataset.events) follow(document.body.dataset.events);
if (byId('compare')) {
  document.addEventListener('change', choose);
  choose();
}
if (byId('answer')) whatIf();
untilThere();
