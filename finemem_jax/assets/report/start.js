// --- the whole page, and again when its run has gone on --------------------------------------------------------

function applyChosen() {
  hidden.clear();
  for (const label of chosen.hide.split("|")) if (label) hidden.add(label);
  for (const name of ["smooth", "log"]) $("chart-controls").elements[name].value = chosen[name];
  drawCharts();
  drawControls(drawAll.labels);
  refresh();
}

function drawAll() {
  haystack = null;
  sought = { text: "", hits: null };
  readGroups();
  drawAll.labels = startColumns();
  for (const group of groups) group.instruction = instruction(group);
  drawHead();
  drawTables();
  drawCauses();
  drawPhases();
}

drawAll();
Object.assign(chosen, { policy: DEFAULTS.policy, hide: DEFAULTS.hide });
readAddress();
applyChosen();
if (placeOf(location.hash)) openHash();

// Served by `finemem watch`: ask now and then whether the records have grown, and draw what is new. What is open,
// chosen and scrolled to stays.
if (data.follow) {
  const state = $("live");
  state.hidden = false;
  let version = data.follow.version;
  const ask = async () => {
    try {
      const reply = await fetch(`data?after=${encodeURIComponent(version)}`);
      if (reply.status === 200) {
        const was = open && key(open), before = DEFAULTS.policy, hid = DEFAULTS.hide;
        data = await reply.json();
        version = data.follow.version;
        const place = placeOf(location.hash), drawnOf = JSON.stringify(drawn && drawn[0]?.columns);
        drawAll();
        if (chosen.policy === before) chosen.policy = DEFAULTS.policy;
        if (chosen.hide === hid) chosen.hide = DEFAULTS.hide;
        const now = groups.find((group) => key(group) === was) || null;
        open = now;
        const isSame = now && now.index === (drawn && drawn[0]?.index) && JSON.stringify(now.columns) === drawnOf;
        if (now && /^g\d/.test(place)) history.replaceState(null, "", addressOf(place.replace(/^g\d+/, `g${now.index}`)));
        if (!document.activeElement?.closest("#filters")) drawControls(drawAll.labels);
        drawCharts();
        const kept = [...$("episode").childNodes], scrolled = scrollY;
        const live = drawn;
        refresh();
        if (isSame && live) $("episode").replaceChildren(...kept);
        scrollTo(0, scrolled);
      }
      state.textContent = reply.ok || reply.status === 304 ? `Following the run; last looked at ${new Date().toLocaleTimeString()}.` : "The run's folder cannot be read.";
    } catch {
      state.textContent = "finemem watch does not answer; what is shown is the last it said.";
    }
    setTimeout(ask, data.follow.seconds * 1000);
  };
  setTimeout(ask, data.follow.seconds * 1000);
}
