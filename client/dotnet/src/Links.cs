using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>What a request needs.</summary>
    public enum Need
    {
        /// <summary>The master: writes and strong reads.</summary>
        Master,
        /// <summary>Any machine, the nearest first: local and bounded reads, watching.</summary>
        Any,
    }

    /// <summary>Whether the machine answers.</summary>
    public enum LinkStatus
    {
        /// <summary>No call has been made yet.</summary>
        Idle,
        /// <summary>The last call was served by <see cref="Link.Host"/>.</summary>
        Connected,
        /// <summary>The machine doesn't answer, and none has been found instead so far.</summary>
        Reconnecting,
    }

    /// <summary>On which machine the client is; never changes once made.</summary>
    public sealed class Link
    {
        readonly TimeSpan made = Clock.Now;

        internal Link(Need need, LinkStatus status, string host, string member, string reason)
        {
            Need = need;
            Status = status;
            Host = host;
            Member = member;
            Reason = reason;
            Since = DateTime.UtcNow;
        }

        /// <summary>For which calls.</summary>
        public Need Need { get; private set; }

        /// <summary>Whether the machine answers.</summary>
        public LinkStatus Status { get; private set; }

        /// <summary>The machine's base URL: the one that serves, or served last; <c>null</c> if none has.</summary>
        public string Host { get; private set; }

        /// <summary>The machine's name in the cluster, if it has been learned; else <c>null</c>.</summary>
        public string Member { get; private set; }

        /// <summary>Why it is reconnecting; <c>null</c> while connected.</summary>
        public string Reason { get; private set; }

        /// <summary>Since when it is so, by this computer's wall clock, UTC.</summary>
        public DateTime Since { get; private set; }

        /// <summary>For how long it has been so; doesn't jump with the wall clock.</summary>
        public TimeSpan For { get { return Clock.Now - made; } }

        /// <summary>In words.</summary>
        public override string ToString()
        {
            switch (Status)
            {
                case LinkStatus.Connected: return "on " + (Member ?? Host);
                case LinkStatus.Reconnecting: return "reconnecting since " + Since.ToLocalTime().ToString("HH:mm:ss") + ": " + Reason;
                default: return "not connected yet";
            }
        }
    }

    /// <summary>A link that has changed.</summary>
    public sealed class LinkChangedEventArgs : EventArgs
    {
        internal LinkChangedEventArgs(Link link) { Link = link; }

        /// <summary>How it is now.</summary>
        public Link Link { get; private set; }
    }

    /// <summary>
    /// The links, and the telling of changes: in order, one at a time, on the context of the thread that made the client,
    /// else on the thread pool. Never in the course of a call, so that a handler may block or call the client.
    /// </summary>
    sealed class Links
    {
        /// <summary>Changes that wait for a slow handler; beyond that the oldest are left out.</summary>
        internal const int WaitingMax = 64;

        readonly object mutex = new object();
        readonly SynchronizationContext context = SynchronizationContext.Current;
        readonly Queue<Link> waiting = new Queue<Link>();
        readonly Link[] links =
        {
            new Link(Need.Master, LinkStatus.Idle, null, null, null),
            new Link(Need.Any, LinkStatus.Idle, null, null, null),
        };
        Dictionary<string, string> members = new Dictionary<string, string>();
        bool telling;

        /// <summary>Whom to tell.</summary>
        internal Action<Link> Changed;

        internal Link this[Need need] { get { lock (mutex) return links[(int)need]; } }

        internal void OnServed(Need need, string host)
        {
            lock (mutex)
            {
                var old = links[(int)need];
                if (old.Status == LinkStatus.Connected && old.Host == host) return;
                Become(new Link(need, LinkStatus.Connected, host, MemberOf(host), null));
            }
        }

        internal void OnTrouble(Need need, string host, string reason)
        {
            lock (mutex)
            {
                var old = links[(int)need];
                if (old.Status == LinkStatus.Reconnecting) return;
                // That the nearest machine still doesn't answer is no news while another serves.
                if (need == Need.Any && old.Status == LinkStatus.Connected && old.Host != host) return;
                Become(new Link(need, LinkStatus.Reconnecting, old.Host, old.Member, host + ": " + reason));
            }
        }

        /// <summary>The names of the machines, by URL.</summary>
        internal void OnMembers(Dictionary<string, string> learned)
        {
            lock (mutex)
            {
                members = learned;
                foreach (var old in (Link[])links.Clone())
                    if (old.Status == LinkStatus.Connected && old.Member != MemberOf(old.Host))
                        Become(new Link(old.Need, old.Status, old.Host, MemberOf(old.Host), null));
            }
        }

        string MemberOf(string host)
        {
            string member;
            return members.TryGetValue(host, out member) ? member : null;
        }

        void Become(Link link)
        {
            links[(int)link.Need] = link;
            if (waiting.Count == WaitingMax) waiting.Dequeue();
            waiting.Enqueue(link);
            if (telling) return;
            telling = true;
            try
            {
                if (context != null) context.Post(state => Tell(), null);
                else ThreadPool.QueueUserWorkItem(state => Tell());
            }
            catch (Exception)
            {
                // The window's thread has ended: nobody is left to be told, and the call goes on.
                telling = false;
                waiting.Clear();
            }
        }

        void Tell()
        {
            while (true)
            {
                Link link;
                lock (mutex)
                {
                    telling = waiting.Count > 0;
                    if (!telling) return;
                    link = waiting.Dequeue();
                }
                var changed = Changed;
                try
                {
                    if (changed != null) changed(link);
                }
                catch
                {
                    // The handler's error goes to its own thread; the next change is told nevertheless.
                    lock (mutex) telling = false;
                    throw;
                }
            }
        }
    }
}
