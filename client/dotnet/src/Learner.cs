using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client
{
    /// <summary>Keeps the list of hosts current, beside the calls.</summary>
    sealed class Learner
    {
        /// <summary>The member list is asked for again after so long, beside a request.</summary>
        static readonly TimeSpan Every = TimeSpan.FromSeconds(10);
        /// <summary>And, after a request that needed several attempts, no sooner than this after the last time.</summary>
        static readonly TimeSpan Again = TimeSpan.FromSeconds(1);
        static readonly TimeSpan Limit = TimeSpan.FromSeconds(5);

        readonly Hosts hosts;
        readonly Links links;
        readonly Func<string, TimeSpan, CancellationToken, Task<Cluster>> view;
        readonly object mutex = new object();
        TimeSpan? learned;

        internal Learner(Hosts hosts, Links links, Func<string, TimeSpan, CancellationToken, Task<Cluster>> view)
        {
            this.hosts = hosts;
            this.links = links;
            this.view = view;
        }

        internal void Learn(Cluster cluster)
        {
            var members = new Dictionary<string, string>();
            foreach (var member in cluster.Members)
                foreach (var url in Usable(member.Urls))
                    members[url] = member.Id;
            var told = Usable(new[] { cluster.SuggestedHost }.Concat(cluster.MasterUrls)).FirstOrDefault();
            lock (hosts)
            {
                if (members.Count > 0) hosts.OnMembers(members.Keys);
                // Who served a request of the master's is known better than what somebody tells.
                if (told != null && cluster.Writable && hosts.Master == null) hosts.OnMaster(told);
            }
            links.OnMembers(members);
        }

        static IEnumerable<string> Usable(IEnumerable<string> urls)
        {
            return urls.Select(url => url == null ? null : Hosts.ParseOne(url)).Where(url => url != null);
        }

        /// <summary>Asks for the current member list beside the request: now and then, and after trouble.</summary>
        internal void Refresh(string host, bool trouble)
        {
            lock (mutex)
            {
                if (learned.HasValue && Clock.Now - learned.Value < (trouble ? Again : Every)) return;
                learned = Clock.Now;
            }
            Patience.Leave(Ask(host));
        }

        async Task Ask(string host)
        {
            var cluster = await view(host, Limit, CancellationToken.None).ConfigureAwait(false);
            if (cluster != null) Learn(cluster);
        }
    }
}
