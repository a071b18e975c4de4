using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;

namespace Tanist.Client
{
    /// <summary>Why a host could not serve.</summary>
    enum Trouble
    {
        /// <summary>No connection, a broken one, or no answer.</summary>
        Unreachable,
        /// <summary>It answers that it can't serve this; another machine perhaps can.</summary>
        Refusing,
        /// <summary>It is the right machine, but can't now: asking another is no use.</summary>
        Busy,
    }

    /// <summary>
    /// Which machine to ask next: a pure policy; time and randomness are arguments. The same as in the Rust client
    /// (<c>client/src/hosts.rs</c>). Not for several threads: the client locks it.
    /// </summary>
    sealed class Hosts
    {
        /// <summary>The shortest pause of a host that failed.</summary>
        internal static readonly TimeSpan PauseMin = TimeSpan.FromMilliseconds(10);
        /// <summary>The longest one.</summary>
        internal static readonly TimeSpan PauseMax = TimeSpan.FromMilliseconds(500);
        /// <summary>A pause is this part of the time since which the host has been failing, so that its return is noticed
        /// at most a quarter late.</summary>
        const int PausePart = 4;
        /// <summary>A host that wasn't tried for so long after its pause begins with the shortest pause again.</summary>
        static readonly TimeSpan Forget = TimeSpan.FromSeconds(1);
        /// <summary>The shortest time in which a host that failed has to take a connection.</summary>
        static readonly TimeSpan ConnectMin = TimeSpan.FromMilliseconds(50);
        /// <summary>Learned hosts kept beside the given ones.</summary>
        internal const int LearnedMax = 64;
        /// <summary>Redirects that end a pause, one after another; further ones wait like any failure.</summary>
        const int RedirectsAtOnce = 3;

        sealed class Entry
        {
            internal string Url;
            internal bool Given;
            internal bool Failed;
            internal TimeSpan Until, FailingSince;
            internal Trouble Why;

            internal bool Paused(TimeSpan now) { return Failed && Until > now; }

            internal bool FailedLately(TimeSpan now) { return Failed && now < Until + Forget; }
        }

        readonly List<Entry> entries = new List<Entry>();
        int next, redirects;
        ulong random;

        /// <summary>The believed master; <c>null</c> if none is known.</summary>
        internal string Master { get; private set; }

        /// <summary>All hosts known now.</summary>
        internal List<string> All { get { return entries.Select(entry => entry.Url).ToList(); } }

        /// <summary>The given hosts, in order. The seed drives the jitter.</summary>
        internal Hosts(IEnumerable<string> given, ulong seed)
        {
            random = seed | 1;
            foreach (var url in given)
                if (Find(url) == null) entries.Add(new Entry { Url = url, Given = true });
        }

        /// <summary>Reads <c>a:8080, http://b:8080/</c> into base URLs.</summary>
        /// <exception cref="ArgumentException">The list is empty, or an entry is neither <c>host:port</c> nor such a URL.</exception>
        internal static List<string> Parse(string list)
        {
            var hosts = new List<string>();
            foreach (var part in (list ?? "").Split(','))
            {
                var host = part.Trim();
                if (host.Length == 0) continue;
                var url = ParseOne(host);
                if (url == null)
                    throw new ArgumentException(
                        "hosts: found \"" + host + "\", expected \"host:port\", \"http://host:port\" or \"https://host:port\"");
                hosts.Add(url);
            }
            if (hosts.Count == 0) throw new ArgumentException("hosts: found none, expected at least one \"host:port\"");
            return hosts;
        }

        /// <summary>The base URL of one host, or <c>null</c> if it can't be used.</summary>
        internal static string ParseOne(string host)
        {
            var url = (host.Contains("://") ? host : "http://" + host).TrimEnd('/');
            var scheme = new[] { "http://", "https://" }.FirstOrDefault(known => url.StartsWith(known, StringComparison.Ordinal));
            if (scheme == null) return null;
            var authority = url.Substring(scheme.Length);
            var colon = authority.LastIndexOf(':');
            ushort port;
            var plain = authority.All(c => c > ' ' && c < '\u007f' && "/?#@\\".IndexOf(c) < 0);
            Uri uri;
            var good = colon > 0 && plain
                && ushort.TryParse(authority.Substring(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out port)
                && port > 0
                // A name that .NET can't take as one would fail later, with a worse error.
                && Uri.TryCreate(url, UriKind.Absolute, out uri) && uri.HostNameType != UriHostNameType.Unknown;
            return good ? url : null;
        }

        /// <summary>The host to ask now; <c>null</c>, and how long to wait, when every host has just failed or the master is busy.</summary>
        internal string Pick(Need need, TimeSpan now, out TimeSpan wait)
        {
            wait = TimeSpan.Zero;
            if (need == Need.Any)
            {
                var due = entries.FirstOrDefault(entry => !entry.Paused(now));
                if (due != null) return due.Url;
                wait = Wait(now);
                return null;
            }
            var master = Master == null ? null : Find(Master);
            if (master != null)
            {
                if (!master.Paused(now)) return master.Url;
                if (master.Why == Trouble.Busy)
                {
                    wait = master.Until - now;
                    return null;
                }
            }
            for (var i = 0; i < entries.Count; i++)
            {
                var index = (next + i) % entries.Count;
                if (entries[index].Paused(now)) continue;
                next = index + 1;
                return entries[index].Url;
            }
            redirects = 0;
            wait = Wait(now);
            return null;
        }

        /// <summary>Time until the first pause ends.</summary>
        TimeSpan Wait(TimeSpan now) { return entries.Where(entry => entry.Paused(now)).Min(entry => entry.Until) - now; }

        /// <summary>How long a connection to the host is waited for, <paramref name="longest"/> at most: a quarter of that as long as there
        /// are others to ask, and once it failed about as long as it has been failing. Windows may let nobody see that a process has
        /// ended, and a machine that is asked meanwhile may still take it for the master.</summary>
        internal TimeSpan ConnectPatience(string host, TimeSpan longest, TimeSpan now)
        {
            if (entries.Count < 2) return longest;
            var entry = Find(host);
            if (entry == null || !entry.FailedLately(now) || entry.Why != Trouble.Unreachable)
                return TimeSpan.FromTicks(longest.Ticks / 4);
            var failing = now - entry.FailingSince;
            if (failing < ConnectMin) failing = ConnectMin;
            return failing < longest ? failing : longest;
        }

        /// <summary>The host served a request that needed this.</summary>
        internal void OnServed(string host, Need need)
        {
            var entry = Find(host);
            if (entry != null) entry.Failed = false;
            if (need != Need.Master) return;
            redirects = 0;
            Master = host;
        }

        /// <summary>The host could not serve: it pauses, longer the longer this has been so, yet no longer than it asks for.</summary>
        internal void OnTrouble(string host, Trouble why, TimeSpan? retryAfter, TimeSpan now)
        {
            if (why != Trouble.Busy && Master == host) Master = null;
            var percent = Jitter();
            var entry = Find(host);
            if (entry == null) return;
            var since = entry.FailedLately(now) ? entry.FailingSince : now;
            var part = TimeSpan.FromTicks((now - since).Ticks / PausePart);
            part = part < PauseMin ? PauseMin : part > PauseMax ? PauseMax : part;
            var pause = TimeSpan.FromTicks(part.Ticks * percent / 100);
            if (pause > PauseMax) pause = PauseMax;
            if (retryAfter.HasValue && pause > retryAfter.Value) pause = retryAfter.Value;
            var least = TimeSpan.FromTicks(PauseMin.Ticks / 2);
            if (pause < least) pause = least;
            entry.Failed = true;
            entry.Until = now + pause;
            entry.Why = why;
            entry.FailingSince = since;
        }

        /// <summary><paramref name="from"/> says that <paramref name="to"/> is the master. It is asked at once if it was alive when last
        /// seen; <paramref name="from"/> pauses, for it may lag behind a failover and would send everybody to and fro.</summary>
        internal void OnRedirect(string from, string to, TimeSpan now)
        {
            OnTrouble(from, Trouble.Refusing, null, now);
            redirects++;
            Learn(to);
            var entry = Find(to);
            if (entry != null && redirects <= RedirectsAtOnce && entry.Failed && entry.Why != Trouble.Unreachable)
                entry.Failed = false;
            Master = to;
        }

        /// <summary>A machine told who is the master.</summary>
        internal void OnMaster(string host)
        {
            Learn(host);
            Master = host;
        }

        /// <summary>A machine told its list of members: learned hosts that are no longer members are forgotten.</summary>
        internal void OnMembers(ICollection<string> urls)
        {
            entries.RemoveAll(entry => !entry.Given && !urls.Contains(entry.Url));
            foreach (var url in urls) Learn(url);
        }

        void Learn(string url)
        {
            if (Find(url) == null && entries.Count(entry => !entry.Given) < LearnedMax) entries.Add(new Entry { Url = url });
        }

        Entry Find(string url) { return entries.Find(entry => entry.Url == url); }

        /// <summary>75 to 125 per cent, so that many clients don't return in step (xorshift64).</summary>
        int Jitter()
        {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            return 75 + (int)(random % 51);
        }
    }
}
