"""What the page looks like, and the little that it does by itself: everything is in it, nothing comes from outside.

The policy names both by their digests, so that no other script or style can ever run.
"""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root{color-scheme:light dark;--paper:#f4f5f2;--card:#fff;--ink:#1c2321;--soft:#5f6b66;--rule:#e0e4df;--ok:#20794b;
--warn:#96600a;--bad:#b3261e;--okbg:#e3f3e9;--warnbg:#fcf0d8;--badbg:#fbe6e4;--line:#1f7a8c;--none:#e9ece8}
@media(prefers-color-scheme:dark){:root{--paper:#121615;--card:#1b201f;--ink:#e6ebe8;--soft:#98a39e;--rule:#2d3432;
--ok:#6cc894;--warn:#e3b354;--bad:#f2837a;--okbg:#1b3126;--warnbg:#362b14;--badbg:#3b201e;--line:#5ab9cb;--none:#262c2a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",Cantarell,sans-serif;-webkit-text-size-adjust:100%}
header,main,footer{max-width:1160px;margin:0 auto;padding:0 16px}
header{padding-top:18px}
.head{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 12px}
h1{font-size:22px;line-height:1.2;margin:0;overflow-wrap:anywhere}
.head span{color:var(--soft)}
.say{display:flex;gap:12px;align-items:baseline;margin:10px 0 0;padding:11px 14px;border-radius:10px;
overflow-wrap:anywhere}
.say b{flex:none}
.good{color:var(--ok)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.say.good{background:var(--okbg)}.say.warn{background:var(--warnbg)}.say.bad{background:var(--badbg)}
.say span{color:var(--ink)}
#stale{margin:10px 0 0;padding:9px 14px;border-radius:10px;background:var(--badbg);color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:12px 0}
.tiles div,section{background:var(--card);border:1px solid var(--rule);border-radius:10px}
.tiles div{padding:10px 14px}
dt{color:var(--soft);font-size:13px}
dd{margin:0;font-size:21px;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
dd small{display:block;font-size:13px;line-height:1.3;font-weight:400;color:var(--soft)}
.columns{display:grid;grid-template-columns:minmax(0,1.5fr) minmax(0,1fr);gap:12px;align-items:start}
.columns>div{display:grid;gap:12px;min-width:0}
section{padding:14px;min-width:0}
h2{font-size:15px;margin:0 0 10px;display:flex;justify-content:space-between;align-items:baseline;gap:12px}
h2 span{font-weight:400;font-size:13px;color:var(--soft)}
a{color:var(--line)}
h2 a{margin-left:10px}
h2 [aria-current]{color:var(--ink);text-decoration:none;font-weight:600}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(140px,1fr));gap:10px}
.pictures a{display:block;text-decoration:none;color:inherit;min-width:0}
.pictures img{display:block;width:100%;aspect-ratio:4/3;height:auto;object-fit:cover;background:var(--none);
border-radius:7px}
.pictures p{margin:4px 0 0;font-size:13px;line-height:1.3;display:flex;gap:8px;justify-content:space-between}
.pictures p span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.pictures small{color:var(--soft);flex:none}
figure{margin:0}figure+figure{margin-top:16px}
figcaption{display:flex;justify-content:space-between;font-size:13px;color:var(--soft)}
figcaption b{color:var(--ink);font-variant-numeric:tabular-nums}
.plot{position:relative;border-bottom:1px solid var(--soft);margin-top:4px}
.plot svg{display:block;width:100%;height:110px}
.top{position:absolute;right:0;top:1px;font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums}
.axis{display:flex;justify-content:space-between;font-size:12px;color:var(--soft)}
path{vector-effect:non-scaling-stroke}
.grid{stroke:var(--rule);stroke-width:1;fill:none}
.line{stroke:var(--line);stroke-width:1.8;fill:none;stroke-linejoin:round}
.area{fill:var(--line);fill-opacity:.13}
.bar{display:block;width:100%;height:8px;border-radius:4px;background:var(--none);margin:5px 0 12px}
.bar rect{fill:var(--line)}.bar.warn rect{fill:var(--warn)}.bar.bad rect{fill:var(--bad)}
.pair{display:flex;justify-content:space-between;gap:12px}
.pair span{color:var(--soft)}
ul{list-style:none;margin:0;padding:0}
li{display:grid;grid-template-columns:20px minmax(0,1fr);gap:2px 8px;padding:6px 0;border-top:1px solid var(--rule);
overflow-wrap:anywhere}
li:first-child{border-top:0;padding-top:0}li:last-child{padding-bottom:0}
li i{font-style:normal;font-weight:700;text-align:center}
li p{margin:2px 0 0;color:var(--soft);font-size:13px}
li p em{font-style:normal;color:var(--ink)}
li .what{display:flex;justify-content:space-between;gap:12px}
li .what span{color:var(--soft);font-size:13px;flex:none;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:5px 0 5px 14px;border-top:1px solid var(--rule);vertical-align:top;overflow-wrap:anywhere}
th{font-weight:400;color:var(--soft);font-size:13px;border-top:0;padding-top:0}
th:first-child,td:first-child{padding-left:0}
tr:last-child td{padding-bottom:0}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td p{margin:0;font-size:13px;color:var(--soft)}
.none{color:var(--soft);margin:0}
footer{padding-top:14px;padding-bottom:26px;font-size:13px;color:var(--soft)}
footer a{margin-right:14px}
@media(max-width:760px){.columns{grid-template-columns:minmax(0,1fr)}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}.tiles div{padding:8px 12px}
.tiles div:first-child:nth-last-child(odd){grid-column:1/-1}
dd{font-size:19px}
.pictures{grid-template-columns:repeat(3,minmax(0,1fr))}.pictures small{display:none}
header,main,footer{padding-left:12px;padding-right:12px}}
"""

#: Looks at the agent again now and then, and puts what is new in its place. The page is whole without it.
SCRIPT = """
(function () {
  "use strict";
  var every = 5000, stale = document.getElementById("stale");
  function put(fresh) {
    document.title = fresh.title;
    document.querySelectorAll("[data-live]").forEach(function (old) {
      var now = fresh.getElementById(old.id);
      if (now && now.outerHTML !== old.outerHTML) old.replaceWith(document.adoptNode(now));
    });
    stale.hidden = true;
  }
  function look() {
    if (document.hidden) return;
    fetch(location.pathname + location.search, {cache: "no-store"}).then(function (answer) {
      if (!answer.ok) throw new Error(answer.status);
      return answer.text();
    }).then(function (text) {
      put(new DOMParser().parseFromString(text, "text/html"));
    }).catch(function () {
      if (stale.hidden) stale.textContent = "The agent has not answered since " + new Date().toLocaleTimeString() + ".";
      stale.hidden = false;
    });
  }
  setInterval(look, every);
  document.addEventListener("visibilitychange", look);
})();
"""

ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><rect width='32' height='32' rx='7' fill='#1f7a8c'/>"
    "<path d='M16 24V9M9 15l7-7 7 7' fill='none' stroke='#fff' stroke-width='3.4' stroke-linecap='round'"
    " stroke-linejoin='round'/></svg>"
)
#: Where a picture is too large, or not there any more.
NO_PICTURE = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 160 120'><path d='M52 44h14l5-7h18l5 7h14v34H52z'"
    " fill='none' stroke='#8a948f' stroke-width='3' stroke-linejoin='round'/><circle cx='80' cy='60' r='9' fill='none'"
    " stroke='#8a948f' stroke-width='3'/></svg>"
)


def _digest(inline: str) -> str:
    return base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; script-src 'sha256-{_digest(SCRIPT)}'; style-src 'sha256-{_digest(STYLE)}'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Of a picture: nothing in it may run, whatever it turns out to be.
PICTURE_POLICY = "default-src 'none'; style-src 'none'; sandbox"
