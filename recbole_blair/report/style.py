"""The page's style sheet and its few lines of script; both stand inside the page, which asks nothing of the network."""

# Series colours after Okabe and Ito, told apart with any colour vision; lighter ones on a dark ground.
CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--text:#1b1f27;--soft:#5c6573;--rule:#e3e7ed;--accent:#0b62c4;
--good:#0a7a50;--warn:#8a5a00;--warnbg:#fff6e0;--mark:#e7f6ee;
--s0:#0072b2;--s1:#d55e00;--s2:#00875f;--s3:#b4488c;--s4:#8f6b00;--s5:#3f9bd1;--s6:#6c4fc2;--s7:#6b7280}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){--bg:#101319;--card:#181c24;--text:#e8ebf0;
--soft:#9aa4b2;--rule:#2a303b;--accent:#6cb2ff;--good:#4cc592;--warn:#f0c46a;--warnbg:#2b2515;--mark:#153126;
--s0:#56a8e0;--s1:#f08a4b;--s2:#3fc498;--s3:#e08cc0;--s4:#d8b441;--s5:#9ad1f2;--s6:#a892f0;--s7:#a3abb8}}
:root[data-theme=light]{color-scheme:light}
:root[data-theme=dark]{color-scheme:dark;--bg:#101319;--card:#181c24;--text:#e8ebf0;
--soft:#9aa4b2;--rule:#2a303b;--accent:#6cb2ff;--good:#4cc592;--warn:#f0c46a;--warnbg:#2b2515;--mark:#153126;
--s0:#56a8e0;--s1:#f08a4b;--s2:#3fc498;--s3:#e08cc0;--s4:#d8b441;--s5:#9ad1f2;--s6:#a892f0;--s7:#a3abb8}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:4rem}
body{margin:0;background:var(--bg);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:break-word}
a{color:var(--accent)}
main,header .in,nav .in{max-width:1120px;margin:0 auto;padding:0 1.25rem}
header{padding:2rem 0 1rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.015em}
h2{font-size:1.35rem;margin:2.4rem 0 .2rem;letter-spacing:-.01em}
h3{font-size:1.08rem;margin:0 0 .3rem}
h4{font-size:.95rem;margin:0 0 .35rem}
p{margin:.35rem 0 .7rem}
.soft{color:var(--soft);font-size:.9rem}
nav{position:sticky;top:0;z-index:5;background:var(--bg);border-bottom:1px solid var(--rule)}
nav .in{display:flex;gap:.2rem;align-items:center;overflow-x:auto;scrollbar-width:none}
nav a{padding:.7rem .7rem;text-decoration:none;white-space:nowrap;color:var(--soft);font-size:.92rem}
nav a:first-child{margin-left:-.7rem}
nav a:hover,nav a:focus-visible{color:var(--text)}
header .in{display:flex;flex-wrap:wrap;gap:.4rem 1.5rem;align-items:end;justify-content:space-between}
header p{margin:0}
.tools{display:flex;gap:.4rem}
button{font:inherit;font-size:.85rem;color:var(--text);background:var(--card);border:1px solid var(--rule);
border-radius:.5rem;padding:.25rem .6rem;cursor:pointer;white-space:nowrap}
section{background:var(--card);border:1px solid var(--rule);border-radius:.9rem;padding:1.2rem 1.25rem;margin:1rem 0}
.lead{font-size:1.06rem}
.scroll{overflow-x:auto;margin:.6rem -1.25rem;padding:0 1.25rem}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.82rem;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--card);z-index:1;padding-left:0;min-width:7.5rem}
td.wrap,th.left,td.left{text-align:left}
td.wrap{white-space:normal;min-width:11rem}
tbody tr:last-child td{border-bottom:0}
th[data-sort]{cursor:pointer}
th[data-sort]:hover,th[data-sort]:focus-visible{color:var(--text)}
th[data-sort=down]::after{content:' ↓'}th[data-sort=up]::after{content:' ↑'}
td small{display:block;color:var(--soft);font-size:.78rem}
.best{font-weight:700}
.key{display:inline-block;width:.72rem;height:.72rem;border-radius:.2rem;background:var(--c);margin-right:.45rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.88rem;margin:.2rem 0 .6rem;padding:0;list-style:none}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:1.4rem 2rem}
.charts figure{margin:0;max-width:500px;min-width:0}
figcaption{font-size:.88rem;color:var(--soft);margin-bottom:.2rem}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
svg .name{fill:var(--text);paint-order:stroke;stroke:var(--card);stroke-width:5px;stroke-linejoin:round}
svg .value{fill:var(--text)}
svg .halo{paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
svg .top .line{stroke:var(--text);stroke-width:2.8;opacity:1}svg .top .dot{fill:var(--text)}
svg g:hover>.line{stroke-width:3.5;opacity:1}
svg .grid{stroke:var(--rule)}svg .zero{stroke:var(--soft)}
svg .line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;opacity:.85}
svg .dash{stroke-dasharray:5 4}
svg .dot,svg .bar{fill:var(--c)}svg .seed{fill:var(--c);opacity:.4}
svg .interval{stroke:var(--c);stroke-width:3;stroke-linecap:round;opacity:.55}
svg .whisker{stroke:var(--text);stroke-width:1.2;opacity:.7}
.c0{--c:var(--s0)}.c1{--c:var(--s1)}.c2{--c:var(--s2)}.c3{--c:var(--s3)}
.c4{--c:var(--s4)}.c5{--c:var(--s5)}.c6{--c:var(--s6)}.c7{--c:var(--s7)}
.yes{color:var(--good);font-weight:600}
.note{background:var(--warnbg);color:var(--warn);border-radius:.6rem;padding:.55rem .85rem;font-size:.9rem;
margin:.6rem 0}
.note ul{margin:.2rem 0;padding-left:1.1rem}
code{font-size:.92em;overflow-wrap:anywhere}
details{margin-top:.8rem}
summary{cursor:pointer;color:var(--accent);font-size:.92rem}
.example{border-top:1px solid var(--rule);padding:1.1rem 0 .4rem}
.example:first-of-type{border-top:0}
.example .cols{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,230px),1fr));gap:1rem 1.6rem}
.example ol,.example ul{margin:0;padding-left:1.25rem;font-size:.88rem;line-height:1.4}
.example li{margin:.22rem 0;padding-left:.1rem}
.example li::marker{color:var(--soft)}
.clip{display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden}
.hit{background:var(--mark);border-radius:.35rem;box-shadow:0 0 0 .2rem var(--mark)}
.tag{font-size:.75rem;color:var(--soft);white-space:nowrap}
.hit .tag{color:var(--good);font-weight:600}
.target{font-weight:600;margin:0 0 .8rem}
p.tag{margin:0 0 .1rem;white-space:normal}
footer{max-width:1120px;margin:1rem auto 3rem;padding:0 1.25rem}
@media (max-width:560px){body{font-size:15px}h1{font-size:1.4rem}h2{font-size:1.2rem}
main,header .in,nav .in,footer{padding-left:.85rem;padding-right:.85rem}
section{padding:1rem .9rem;border-radius:.7rem}.scroll{margin:.6rem -.9rem;padding:0 .9rem}
th,td{padding:.4rem .5rem}th:first-child,td:first-child{max-width:40vw;white-space:normal}
.example .cols{gap:.9rem}}
@media print{nav{display:none}section{break-inside:avoid}body{background:#fff}}
"""

SCRIPT = """
'use strict';
(() => {
  const root = document.documentElement;
  document.getElementById('theme').addEventListener('click', () => {
    const dark = matchMedia('(prefers-color-scheme: dark)').matches;
    const now = root.dataset.theme || (dark ? 'dark' : 'light');
    root.dataset.theme = now === 'dark' ? 'light' : 'dark';
  });
  document.getElementById('save').addEventListener('click', () => {
    const numbers = document.getElementById('numbers').textContent;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([numbers], {type: 'application/json'}));
    link.download = 'report.json';
    link.click();
    URL.revokeObjectURL(link.href);
  });
  const value = (row, i) => {
    const cell = row.cells[i];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  for (const head of document.querySelectorAll('th[data-sort]')) {
    head.tabIndex = 0;
    head.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      head.click();
    });
    head.addEventListener('click', () => {
      const body = head.closest('table').tBodies[0], i = head.cellIndex;
      const up = head.dataset.sort === 'down';
      for (const other of head.parentNode.cells) if (other.dataset.sort !== undefined) {
        other.dataset.sort = '';
        other.removeAttribute('aria-sort');
      }
      head.dataset.sort = up ? 'up' : 'down';
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a, i), y = value(b, i);
        return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
      });
      body.append(...rows);
    });
  }
})();
"""
