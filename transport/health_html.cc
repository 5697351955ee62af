// SPDX-License-Identifier: Apache-2.0
// All values enter the page as text nodes, so nothing a role reports can become markup.
#include "transport/health_html.h"

namespace wideberth::transport {

const char kHealthHtml[] = R"html(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>wideberth</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark;
  --bg: #f6f7f9; --card: #ffffff; --ink: #1b2430; --soft: #64707f; --line: #e2e6ec; --accent: #2563a8;
  --good: #1f7a4d; --good-bg: #e3f4ea; --bad: #b3261e; --bad-bg: #fbe7e5; --idle: #5b6675; --idle-bg: #eceff3; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #12161c; --card: #1a2029; --ink: #e4e9f0; --soft: #93a0b0; --line: #2a323d; --accent: #6ea8e6;
  --good: #7ed3a4; --good-bg: #173626; --bad: #ff9d94; --bad-bg: #44211e; --idle: #a3afbd; --idle-bg: #2a323d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 40px; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 14px; margin-bottom: 18px; }
h1 { font-size: 22px; margin: 0; font-weight: 650; }
.soft { color: var(--soft); }
.pill { display: inline-block; padding: 1px 10px; border-radius: 999px; font-size: 13px; font-weight: 600;
  background: var(--idle-bg); color: var(--idle); white-space: nowrap; }
.pill.good { background: var(--good-bg); color: var(--good); }
.pill.bad { background: var(--bad-bg); color: var(--bad); }
.push { margin-left: auto; }
.bar { height: 8px; border-radius: 4px; background: var(--line); overflow: hidden; margin: 0 0 18px; }
.bar div { height: 100%; background: var(--accent); transition: width .4s; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 10px; margin-bottom: 18px; }
.fact, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.fact { padding: 10px 14px; }
.fact b { display: block; font-size: 19px; font-weight: 620; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.fact span { color: var(--soft); font-size: 13px; }
.error { border: 1px solid var(--bad); background: var(--bad-bg); color: var(--bad); border-radius: 10px; padding: 10px 14px;
  margin-bottom: 18px; overflow-wrap: anywhere; }
.card { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 8px 14px; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-size: 13px; font-weight: 550; white-space: nowrap; }
td.number, th.number { text-align: right; }
td.text { max-width: 320px; overflow-wrap: anywhere; }
a { color: var(--accent); }
footer { margin-top: 18px; font-size: 13px; color: var(--soft); }
</style>
</head>
<body>
<main>
<header><h1 id="name">wideberth</h1><span class="soft" id="role"></span><span class="pill" id="state">loading</span>
<span class="soft push" id="fresh"></span></header>
<div class="bar" id="bar" hidden><div id="fill"></div></div>
<div class="error" id="error" hidden></div>
<section class="facts" id="facts"></section>
<section class="card" id="members" hidden></section>
<footer><a href="status.json">status.json</a> &middot; <a href="metrics">metrics</a> &middot; <a href="healthz">healthz</a></footer>
</main>
<script>
'use strict';
const at = id => document.getElementById(id);
const make = (tag, text, cls) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (cls) node.className = cls;
  return node;
};
const short = new Intl.NumberFormat('en', {maximumFractionDigits: 1});
const number = x => x === null || x === undefined ? '–' : short.format(x);
const age = s => s < 1 ? 'now' : s < 120 ? Math.round(s) + ' s' : s < 7200 ? Math.round(s / 60) + ' min' : Math.round(s / 3600) + ' h';
const tone = state => /lost|fail|dead|error|unhealthy/.test(state) ? 'bad' : /idle|wait|start|drain|done/.test(state) ? '' : 'good';
function draw(s) {
  document.title = s.name + (s.run ? ' · ' + s.run : '');
  at('name').textContent = s.name;
  at('role').textContent = s.role + (s.run ? ' of run ' + s.run : '');
  at('state').textContent = s.healthy ? s.state : 'unhealthy';
  at('state').className = 'pill ' + (s.healthy ? tone(s.state) : 'bad');
  at('bar').hidden = s.progress === null;
  if (s.progress !== null) at('fill').style.width = (100 * Math.min(1, Math.max(0, s.progress))) + '%';
  const trouble = [s.unhealthy_reason, s.last_error].filter(Boolean).join(' · ');
  at('error').hidden = !trouble;
  at('error').textContent = trouble;
  const facts = [];
  if (s.policy_version !== null) facts.push(['policy version', number(s.policy_version)]);
  if (s.tokens_per_second !== null) facts.push(['tokens per second', number(s.tokens_per_second)]);
  if (s.num_items !== null) facts.push([s.role === 'scorer' ? 'items scored' : 'groups', number(s.num_items)]);
  facts.push(['up', age(s.uptime_seconds)]);
  for (const [key, value] of s.facts) facts.push([key, value]);
  at('facts').replaceChildren(...facts.map(([key, value]) => {
    const fact = make('div', undefined, 'fact');
    fact.append(make('b', value), make('span', key));
    return fact;
  }));
  drawMembers(s.members);
}
function drawMembers(members) {
  at('members').hidden = members.length === 0;
  const table = make('table'), head = make('tr');
  const columns = ['name', 'role', 'state', 'version', 'tokens/s', 'items', 'heartbeat', 'last error'];
  columns.forEach((c, i) => head.append(make('th', c, i >= 3 && i <= 6 ? 'number' : '')));
  table.append(head);
  for (const m of members) {
    const row = make('tr'), name = make('td');
    if (m.health_address) {
      const link = make('a', m.name);
      link.href = (/^(127\.|localhost|\[::1)/.test(m.health_address) ? 'http:' : location.protocol) +
          '//' + m.health_address + '/';
      name.append(link);
    } else {
      name.textContent = m.name;
    }
    const state = make('td');
    state.append(make('span', m.state, 'pill ' + tone(m.state)));
    row.append(name, make('td', m.role), state, make('td', number(m.policy_version), 'number'),
      make('td', number(m.tokens_per_second), 'number'), make('td', number(m.num_items), 'number'),
      make('td', age(m.heartbeat_age_seconds), 'number'), make('td', m.last_error, 'text soft'));
    table.append(row);
  }
  at('members').replaceChildren(table);
}
async function refresh() {
  try {
    const reply = await fetch('status.json', {cache: 'no-store'});
    draw(await reply.json());
    at('fresh').textContent = 'updated ' + new Date().toLocaleTimeString();
  } catch (e) {
    at('state').textContent = 'no answer';
    at('state').className = 'pill bad';
  }
  setTimeout(refresh, 2000);
}
refresh();
</script>
</body>
</html>
)html";

}  // namespace wideberth::transport
