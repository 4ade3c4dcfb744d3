// Puts rendered items in their place as they come; it makes no HTML of its own.
"use strict";

const chat = document.getElementById("chat");
const state = document.getElementById("state");
const { lang } = document.body.dataset;
let revision = Number(document.body.dataset.revision);
let clears = Number(document.body.dataset.clears);

// Plain times become the reader's own, and the newest item stays in sight for those who read the end.
function localTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    time.textContent = at.toLocaleTimeString(lang, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
    time.title = at.toLocaleString(lang);
  }
}

const atEnd = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
const toEnd = () => scrollTo(0, document.documentElement.scrollHeight);

function show(items) {
  const follow = atEnd();
  for (const item of items) {
    const holder = document.createElement("template");
    holder.innerHTML = item.html;
    localTimes(holder.content);
    const old = document.getElementById(item.id);
    if (old) old.replaceWith(holder.content);
    else chat.append(holder.content);
  }
  if (follow) toEnd();
}

async function follow() {
  for (;;) {
    try {
      const reply = await fetch(`/feed?since=${revision}&clears=${clears}&lang=${lang}`);
      state.className = "state live";
      state.textContent = state.dataset.live;
      if (reply.status === 200) {
        const news = await reply.json();
        if (news.afresh) chat.replaceChildren();
        ({ revision, clears } = news);
        show(news.items);
      }
    } catch {
      state.className = "state lost";
      state.textContent = state.dataset.lost;
      await new Promise((resume) => setTimeout(resume, 1500));
    }
  }
}

document.getElementById("clear").addEventListener("click", () => fetch("/messages", { method: "DELETE" }));
document.getElementById("copy").addEventListener("click", async (event) => {
  await navigator.clipboard.writeText(document.getElementById("curl").textContent);
  event.target.textContent = event.target.dataset.copied;
});

localTimes(document);
toEnd();
state.className = "state live";
state.textContent = state.dataset.live;
// After the page has loaded, or the browser would show it as loading for as long as it waits for news.
if (document.readyState === "complete") follow();
else addEventListener("load", () => setTimeout(follow));
